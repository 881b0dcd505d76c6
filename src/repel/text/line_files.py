"""Anyone's own texts in plain files: a text a line, or a text a file in folders of classes."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.csv_files import split_files
from repel.data.layout import Part, class_names, empty_folders, split_folders
from repel.data.listing import list_files
from repel.data.samples import Splits
from repel.data.split_names import splits_among
from repel.data.text_files import check_encoding, opened
from repel.text.packed import Row
from repel.text.reading import Source, read_splits

__all__ = ["text_lines"]

ENDINGS = (".txt", ".text", ".md", ".", "")
LAYOUTS = ("splits", "classes")
UNITS = ("line", "file")


def text_lines(
    root: str,
    unit: str | None = None,
    encoding: str | None = None,
    layout: str = "splits",
    cache: str | None = "auto",
) -> Splits:
    """Read a file with a text a line, or a folder: of train.txt, val.txt and test.txt with a text a line; or of files
    with a text each, in folders of classes, in folders of splits or in neither, as data=image_folder reads images.

    Args:
        root: the file or folder.
        unit: what is a text, `line` or `file`; None: a line of a file or of train.txt and test.txt, else a file.
        encoding: of the files; None: UTF-8, or what a byte-order mark says.
        layout: `splits`, or `classes`: every folder is a class, whatever its name.
        cache: see cache.cache_folder.

    Raises:
        ValueError: an option, or what is in the files; one line that names the option.
    """
    check_encoding(encoding)
    if unit not in (None, *UNITS):
        raise ValueError(f"data.unit must be {' or '.join(UNITS)} or null, got {unit!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"data.layout must be {' or '.join(LAYOUTS)}, got {layout!r}")
    folder = Path(root).expanduser()
    if unit == "file" and folder.is_file():
        raise ValueError(f"data.unit=file: data.root={root} is one file, which would be one text; name a folder")
    if folder.is_dir() and (unit == "file" or not _has_split_files(folder)):
        parts = _list_parts(folder, layout)
        labeled, unit = bool(class_names(folder, parts, "texts")), unit or "file"
        sources = {split: _source(folder, part, labeled, unit, encoding) for split, part in parts.items()}
    else:
        files, unit = split_files(root, ENDINGS), "line"
        sources = {split: _source(file.parent, Part("", [file.name]), False, unit, encoding)
                   for split, file in files.items()}  # fmt: skip
    return read_splits(sources, ["text"], ["lines", unit, encoding, layout], cache)


def _has_split_files(folder: Path) -> bool:
    """Whether there are train.txt and another split's in the folder, or one file alone."""
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    stems = [file.stem for file in files if file.suffix.lower() in ENDINGS and file.is_file()]
    return {"train"} < set(splits_among(stems).values()) or len(stems) == len(files) == 1


def _list_parts(folder: Path, layout: str) -> dict[str, Part]:
    """Each split's folder and files; a line says what of the folder is left out.

    Raises:
        ValueError: no texts in a split, or it is not clear what is a split.
    """
    listing = list_files(folder, "texts", _kind_left_out, lambda names: None)
    parts = split_folders(folder, listing, layout)
    read = sum(len(part.files) for part in parts.values())
    for part in parts.values():
        if not part.files:
            raise ValueError(f"no texts in {folder / part.folder}; in data.root={folder}: {listing.describe(read)}")
    empty = empty_folders(listing, parts)
    if rank() == 0 and (listing.left_out or listing.closed or empty or read < len(listing.files)):
        print(f"files    {listing.describe(read)}" + (f"; no texts in: {', '.join(empty)}" if empty else ""))
    return parts


def _kind_left_out(ending: str) -> str | None:
    return None if ending in ENDINGS else shown(ending)


def _source(root: Path, part: Part, labeled: bool, unit: str, encoding: str | None) -> Source:
    folder = root / part.folder
    name = part.files[0] if len(part.files) == 1 else str(folder.name)
    rows = partial(_rows, root, part, labeled, unit, encoding)
    return Source(name, [folder / file for file in part.files], rows, f"{unit}s")


def _rows(root: Path, part: Part, labeled: bool, unit: str, encoding: str | None) -> Iterator[Row]:
    for file in part.files:
        label = file.split(os.sep, 1)[0] if labeled else ""
        with opened(root / part.folder / file, encoding) as stream:
            if unit == "file":
                yield Row([stream.read()], label, os.path.join(part.folder, file))
                continue
            for line in stream:
                yield Row([line], label)
