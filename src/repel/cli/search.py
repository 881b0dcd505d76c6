"""The nearest images to one image: repel search QUERY.png EMBED_FOLDER [k=10]
The nearest texts to one text:    repel search "a small bird" EMBED_FOLDER [k=10]
Items like an item, by its name:  repel search libc6 EMBED_FOLDER [k=10]

EMBED_FOLDER was written by repel embed; latest is the newest one. Prints cosine similarity, class and file of each
image, and draws them; of texts it prints cosine similarity, split, class and the text; of items cosine similarity,
class and name.
Options:

    side=users     users like a user, by its name; default items
    layer=z        which features, if the folder has both; default h
    out=FILE       the drawing of images; default EMBED_FOLDER/nearest_QUERY.png
    ckpt=FILE      the checkpoint or the run that made the features, if it has moved; latest is the newest run
    data_root=DIR  the folder of the images, if it has moved; searching texts needs none
    --config-dir=DIR  the folder of YAML files that name the run's classes of your own, if it has any
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from repel.base.terminal import shown
from repel.cli.latest import EMBEDDED, RUN, newest
from repel.cli.scripts import run_script
from repel.cli.suggestions import nearest as close
from repel.export.record import RECORD, is_of_items, is_of_texts, read_record

if TYPE_CHECKING:
    from repel.export.search import Match

OPTIONS = ("k", "side", "layer", "out", "ckpt", "data_root", "--config-dir")


def parsed(arguments: list[str]) -> tuple[Path | str, Path, dict[str, str]]:
    """Query, folder and options. The query is an image's file, or the words to search in a folder of texts.

    Raises:
        ValueError: one line that names the mistake.
    """
    typed = [a for a in arguments if re.match(r"[\w.-]+=", a) and not _exists(a)]
    options = dict(a.split("=", 1) for a in typed)
    for key in options:
        if key not in OPTIONS:
            raise ValueError(f"unknown option {key}{close(key, list(OPTIONS))} (there are: {', '.join(OPTIONS)})")
    if "ckpt" in options:
        options["ckpt"] = newest(RUN, options["ckpt"], f"ckpt={options['ckpt']}")
    named = [a for a in arguments if a not in typed]
    if len(named) != 2:
        raise ValueError(
            "name an image, or words in quotes, and a folder of features: repel search QUERY.png EMBED_FOLDER"
        )
    folder = Path(newest(EMBEDDED, named[1], named[1])).expanduser()
    query = _query(named[0], folder, options)
    k = options.setdefault("k", "10")
    if not k.isdecimal() or int(k) < 1:
        raise ValueError(f"k must be a whole number, at least 1, got {k!r}")
    return query, folder, options


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # a long text is no file's name
        return False


def _query(typed: str, folder: Path, options: dict[str, str]) -> Path | str:
    file = Path(typed).expanduser()
    record = read_record(folder) if (folder / RECORD).is_file() else {}
    if is_of_items(record):
        if options.setdefault("side", "items") not in ("users", "items"):
            raise ValueError(f"side must be users or items, got {options['side']!r}")
        if "out" in options:
            raise ValueError(f"out= is for a drawing of images, and {folder} holds users and items; leave it out")
        return typed
    if "side" in options:
        raise ValueError(f"side= is for users and items, which {folder} does not hold; leave it out")
    if is_of_texts(record):
        if file.suffix and _exists(str(file)):
            raise ValueError(f"{folder} holds texts, and {shown(file)} is a file: type the words to search, in quotes")
        if "out" in options:
            raise ValueError(f"out= is for a drawing of images, and {folder} holds texts; leave it out")
        return typed
    if not _exists(str(file)) or not file.is_file():
        if _exists(str(file / RECORD)):
            raise ValueError(f"{shown(file)} is the folder of features: it comes last, after the words")
        are_words = " " in typed and not file.suffix
        if are_words and not (folder / RECORD).is_file():
            raise ValueError(f"{shown(folder)} holds no features: python embed.py ckpt=RUN writes the folder to search")
        words = "; words search texts, and this folder holds images" * are_words
        raise ValueError(f"there is no image {shown(file)}{words}")
    return file


def search(query: Path | str, folder: Path, options: dict[str, str]) -> None:
    from repel.engine.targets import allow, allow_folder
    from repel.export.search import (  # torch: after the options
        draw_matches,
        name_feature,
        nearest_matches,
        open_folder,
        query_feature,
        read_pictures,
        side_of,
        text_feature,
    )

    if "--config-dir" in options:
        allow_folder(Path(options["--config-dir"]).expanduser())
        allow(roots=[str(Path.cwd())])
    embedded = open_folder(folder, options.get("layer"), options.get("data_root"))
    if "side" in options:
        embedded = side_of(embedded, options["side"])
        print_items(nearest_matches(name_feature(str(query), embedded), embedded, int(options["k"])))
        return
    ckpt = options.get("ckpt")
    feature = text_feature(query, embedded, ckpt) if isinstance(query, str) else query_feature(query, embedded, ckpt)
    found = nearest_matches(feature, embedded, int(options["k"]))
    if isinstance(query, str):
        print_texts(found)
        return
    for one in found:
        print(f"{one.similarity:.4f}  {one.label or one.split:<16}  {shown(one.file)}")
    out = Path(options.get("out", folder / f"nearest_{query.stem}.png")).expanduser()
    sheet = draw_matches(query, found, read_pictures(found, embedded.record), embedded.record)
    sheet.save(out)
    print(shown(out))


def print_items(found: list["Match"]) -> None:
    from repel.evaluation.text_table import on_one_line

    width = max(len(one.label) for one in found)
    for one in found:
        print(f"{one.similarity:.4f}  {one.label:<{width}}{'  ' * bool(width)}{on_one_line(one.file)}")


def print_texts(found: list["Match"]) -> None:
    from repel.evaluation.text_table import on_one_line

    width = max(len(one.label) for one in found)
    for one in found:
        print(f"{one.similarity:.4f}  {one.split:<5}  {one.label:<{width}}  {on_one_line(one.file)}")


def main() -> int:
    """Find the nearest images to one image, or texts to one text: QUERY.png EMBED_FOLDER"""
    return run_script(__doc__, lambda typed: search(*parsed(typed)))
