"""Figures: names as users wrote them, by a font that has their letters; and what fails costs a line."""

import functools
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["attempt", "font_file", "is_drawable", "legend", "sheet_font", "wrapped", "write_literally"]


def attempt(what: str, make: Callable[[], Any]) -> Any:
    """What make() returns; where it fails, None and a line: the numbers of a run do not depend on its pictures."""
    try:
        return make()
    except Exception as error:
        print(f"note     {what} could not be made: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return None


@functools.cache
def font_file(text: str) -> str | None:
    """A font that has all letters of a text: matplotlib's own, or one installed here; None where there is none."""
    letters = {ord(letter) for letter in text if not letter.isspace()}
    return next((file for file in _files() if letters <= _known(file, frozenset(letters))), None)


def is_drawable(text: str) -> bool:
    return font_file(text) is not None


def _files() -> Iterator[str]:
    import matplotlib
    from matplotlib import font_manager

    own = matplotlib.get_data_path()  # with fonts for formulas, and Last Resort, which has a box for every letter
    yield str(Path(own) / "fonts/ttf/DejaVuSans.ttf")
    fonts = [font for font in font_manager.fontManager.ttflist if font.style == "normal"]
    fonts = [f for f in fonts if not (f.fname.startswith(own) or re.search("last ?resort|blank", f.name.lower()))]
    yield from dict.fromkeys(font.fname for font in sorted(fonts, key=_plainness))


def _plainness(font: Any) -> tuple[int, bool]:
    """Fonts of usual weight first, and those without serifs."""
    weight = font.weight if isinstance(font.weight, int) else 400
    return abs(weight - 400), "sans" not in font.name.lower()


def _known(file: str, letters: frozenset[int]) -> set[int]:
    """Those of the letters that a font can draw at any size; colored emoji cannot be."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):  # deleted since matplotlib listed it, or of a kind it cannot read
        return set()
    return {letter for letter in letters if font.get_char_index(letter)} if font.scalable else set()


class _AtCommas(textwrap.TextWrapper):
    """Breaks lines after commas and slashes too, as overrides and paths have no spaces."""

    wordsep_simple_re = re.compile(r"(\s+)|(?<=[,/])")


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most so many characters.

    >>> wrapped("loss=ntxent values={a:[0,1],b:[2,3]}", 26)
    ['loss=ntxent values={a:[0,', '1],b:[2,3]}']
    """
    return _AtCommas(width, break_on_hyphens=False).wrap(text) or [""]


def write_literally(artist: Any, text: str, width: int | None = None) -> None:
    """Let a text of matplotlib's show these words: no formulas between dollars, and with a font that has them.

    Args:
        width: characters in a line at most; None: one line.
    """
    words = " ".join(text.split())
    artist.set_parse_math(False)
    artist.set_text(words if width is None else "\n".join(wrapped(words, width)))
    if not text.isascii() and (file := font_file(text)):
        artist.set_fontproperties(_with_file(artist.get_fontproperties(), file))


def _with_file(properties: Any, file: str) -> Any:
    changed = properties.copy()
    changed.set_file(file)
    return changed


def legend(place: Any, handles: Sequence[Any], names: Sequence[str], width: int | None = None, **options: Any) -> None:
    """A legend with exactly these names; matplotlib would leave out those that begin with an underscore.

    Args:
        place: axes, or a figure.
        width: characters in a line at most; None: one line each.
    """
    import warnings

    # which the file's writer would give on a slow machine
    warnings.filterwarnings("ignore", 'Creating legend with loc="best" can be slow')
    made = place.legend(handles, ["name"] * len(names), **options)
    for artist, name in zip(made.get_texts(), names, strict=True):
        write_literally(artist, name, width)


def sheet_font(text: str, size: float) -> Any:
    """Pillow's own font, or for letters beyond ASCII one that has them, where there is one."""
    from PIL import ImageFont

    file = None if text.isascii() else font_file(text)
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
