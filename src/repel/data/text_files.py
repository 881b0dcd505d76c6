"""Text files in whatever encoding they say they have, or are said to have."""

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from repel.base.terminal import shown
from repel.data.tables import MARKS

__all__ = ["check_encoding", "opened"]

HEAD = 2**16  # bytes by which a file is judged
ZEROS = 0.1  # of these bytes; where more are 0, it is no text in an encoding of one byte a letter


def check_encoding(encoding: str | None) -> None:
    """Raises ValueError where Python knows no such encoding."""
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError as error:
        raise ValueError(f"data.encoding={encoding}: Python knows no such encoding; such as cp1252") from error


@contextlib.contextmanager
def opened(path: Path, encoding: str | None, newline: str | None = None, option: str = "data.root") -> Iterator[TextIO]:
    """The file as text: UTF-8, or what its byte-order mark says, or the encoding.

    Args:
        newline: as of open().
        option: which names the file, for messages.

    Raises:
        ValueError: it cannot be read, or what is read from it is not in that encoding; names the line and the fix.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        with path.open(encoding=_encoding_of(path, head, encoding, option), newline=newline) as stream:
            yield stream
    except OSError as error:
        raise ValueError(f"{option}: {shown(path)} cannot be read ({error.strerror})") from error
    except UnicodeError as error:
        known = encoding or _encoding_of(path, head, encoding, option)
        raise ValueError(
            f"{option}: {shown(path)} is not {known.upper().removesuffix('-SIG')} (line {_bad_line(path, known):,}); "
            "save it as UTF-8, or say its encoding, data.encoding=cp1252 for Windows' of Western Europe"
        ) from error


def _encoding_of(path: Path, head: bytes, encoding: str | None, option: str) -> str:
    mark = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if encoding is not None:
        return "utf-8-sig" if mark == "utf-8-sig" and codecs.lookup(encoding).name == "utf-8" else encoding
    if mark is None and head.count(0) > ZEROS * len(head):
        raise ValueError(
            f"{option}: {shown(path)} has a zero in {head.count(0) / len(head):.0%} of its bytes: if it is UTF-16, "
            "data.encoding=utf-16-le or utf-16-be reads it; else it is no text"
        )
    return mark or "utf-8"


def _bad_line(path: Path, encoding: str) -> int:
    """The number of the first line, from 1, that is not in the encoding."""
    lines, decoder = 1, codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as file:
        while block := file.read(io.DEFAULT_BUFFER_SIZE):
            try:
                lines += decoder.decode(block).count("\n")
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                return lines + good.decode(encoding, "ignore").count("\n")
    return lines
