"""Anyone's own texts in CSV files: a column of texts, and of labels, positives and hard negatives where there are."""

import contextlib
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.samples import Splits
from repel.data.split_names import splits_among
from repel.data.tables import DELIMITERS
from repel.text.packed import Row
from repel.text.reading import Source, check_roles, choose_text_column, column_names, listed, read_splits
from repel.text.text_files import check_encoding, opened

__all__ = ["split_files", "text_csv"]

ENDINGS = (".csv", ".tsv", ".txt")
SPLITS = ("train", "val", "test")
Columns = dict[str, list[str]]  # text, label, positive, negative -> names of columns


def text_csv(
    root: str,
    text: str | None = None,
    label: str | None = None,
    positive: str | None = None,
    negative: str | Sequence[str] | None = None,
    encoding: str | None = None,
    quotes: bool = True,
    cache: str | None = "auto",
) -> Splits:
    """Read a file whose first row names its columns, or a folder with train.csv and perhaps val.csv and test.csv.

    Cells are separated by commas, semicolons, tabs or bars, whichever the first row has.

    Args:
        root: the file or folder.
        text: the column of texts; None: the only one that is named text, sentence, content or the like.
        label: the column of classes; an empty cell is unknown. None: there are no labels.
        positive: the column of a second text that is the text's positive; or None.
        negative: that of its hard negative, or several; or None.
        encoding: of the files; None: UTF-8, or what a byte-order mark says.
        quotes: whether double quotes stand around cells that hold separators or line breaks; False: they are letters.
        cache: see cache.cache_folder.

    Raises:
        ValueError: an option, or what is in the files; one line that names the option.
    """
    check_encoding(encoding)
    files, options = split_files(root, ENDINGS), (encoding, csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
    typed = {"label": listed(label), "positive": listed(positive), "negative": listed(negative)}
    header, _ = _header(files["train"], *options, [name for names in typed.values() for name in names])
    used = [name for names in typed.values() for name in names]
    named = choose_text_column(shown(files["train"].name), header, text, used)
    columns = {"text": [named], **typed}
    check_roles(columns)
    files = {split: file for split, file in files.items() if _has_columns(file, columns, split, *options)}
    unread = [name for name in header if name and name not in (named, *used)]
    note = f"columns not read: {', '.join(map(shown, unread))}" if unread else ""
    note += "; data.label=COLUMN takes labels" * bool(unread and not label and not positive)
    sources = {
        split: Source(file.name, [file], partial(_rows, file, columns, *options), "rows", note * (split == "train"))
        for split, file in files.items()
    }
    return read_splits(sources, column_names(positive, negative), ["csv", columns, *options], cache)


def split_files(root: str, endings: Sequence[str]) -> dict[str, Path]:
    """Split -> its file: root itself is train; of a folder, the files whose names are those of splits, or its only one.

    Raises:
        ValueError: no such file or folder, no train, or two files of one split.
    """
    place = Path(root).expanduser()
    if place.is_file():
        return {"train": place}
    if not place.is_dir():
        raise ValueError(f"data.root={root}: there is no such file or folder")
    files = {file.stem: file for file in sorted(place.iterdir())
             if file.suffix.lower() in endings and not file.name.startswith(".")}  # fmt: skip
    listed = ", ".join(shown(file.name) for file in files.values())
    if len(files) == 1:
        return {"train": next(iter(files.values()))}
    found: dict[str, Path] = {}
    for name, split in splits_among(files).items():
        if split in found:
            both = f"{shown(found[split].name)} and {shown(files[name].name)}"
            raise ValueError(f"data.root={root}: {both} look like the {split} split; keep one of them there")
        found[split] = files[name]
    if "train" not in found:
        raise ValueError(
            f"data.root={root} must be a file, or a folder with train{endings[0]} and perhaps val{endings[0]} and "
            f"test{endings[0]}; it has " + (listed or f"no {', '.join(endings)} file")
        )
    parts = {split: found[split] for split in SPLITS if split in found}
    if rank() == 0 and (others := [shown(file.name) for file in files.values() if file not in parts.values()]):
        print(f"note     data.root={root}: left out as no split of train, val and test: {', '.join(others)}")
    return parts


@contextlib.contextmanager
def _csv_reader(file: Path, encoding: str | None, quoting: int, delimiter: str) -> Iterator[Any]:
    """Rows of cells.

    Raises:
        ValueError: it is no CSV; names the line.
    """
    before = csv.field_size_limit(sys.maxsize)  # of a cell; a text may be a book
    try:
        with opened(file, encoding, newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
            try:
                yield reader
            except csv.Error as error:
                raise ValueError(
                    f"data.root: {shown(file.name)}, line {reader.line_num:,}: {error}; a quote inside of quotes is "
                    'written twice, ""; where quotes are letters like others, data.quotes=false'
                ) from error
    finally:
        csv.field_size_limit(before)


def _header(file: Path, encoding: str | None, quoting: int, wanted: Sequence[str]) -> tuple[list[str], str]:
    """The names in the first row, and the separator: the one that gives most of the wanted names, then most names.

    Raises:
        ValueError: with none of them it is a row.
    """
    found: list[tuple[tuple[int, int], list[str], str]] = []
    for delimiter in DELIMITERS:
        try:
            with _csv_reader(file, encoding, quoting, delimiter) as reader:
                names = [name.strip() for name in next(reader, [])]
        except ValueError as error:  # its quotes may fit another one
            mistake = error
        else:
            found.append(((len({*wanted} & {*names}), len(names)), names, delimiter))
    if not found:
        raise mistake
    _, names, delimiter = max(found, key=lambda one: one[0])
    return names, delimiter


def _has_columns(file: Path, columns: Columns, split: str, encoding: str | None, quoting: int) -> bool:
    """Whether a split can be read; a line says so where val or test has no labels and is left out.

    Raises:
        ValueError: a column is not there, or is there twice.
    """
    header, _ = _header(file, encoding, quoting, [name for names in columns.values() for name in names])
    counts = Counter(header)
    for option, name in ((option, name) for option, names in columns.items() for name in names):
        if counts[name] > 1:
            raise ValueError(f"data.{option}={name}: {shown(file.name)} has two columns of this name; rename one")
        if name not in counts and option == "label" and split != "train":
            if rank() == 0:
                print(f"note     {shown(file.name)} has no column {shown(name)}: it is left out, and as many as "
                      f"data.{split}_fraction says are held out of train")  # fmt: skip
            return False
        if name not in counts:
            there = ", ".join(map(shown, header))
            raise ValueError(f"data.{option}={name}: {shown(file.name)} has no such column; it has {there}")
    return True


def _rows(file: Path, columns: Columns, encoding: str | None, quoting: int) -> Iterator[Row]:
    """Raises ValueError where a row has more cells than there are columns."""
    header, delimiter = _header(file, encoding, quoting, [name for names in columns.values() for name in names])
    places = [header.index(name) for option, names in columns.items() if option != "label" for name in names]
    label = header.index(columns["label"][0]) if columns["label"] else None
    with _csv_reader(file, encoding, quoting, delimiter) as reader:
        next(reader)
        for cells in reader:
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise ValueError(
                    f"data.root: {shown(file.name)}, line {reader.line_num:,}: {len(cells)} cells, and the first row "
                    f"names {len(header)} columns; put quotes around cells that hold {delimiter!r}"
                )
            cells += [""] * (len(header) - len(cells))
            yield Row([cells[place] for place in places], "" if label is None else cells[label])
