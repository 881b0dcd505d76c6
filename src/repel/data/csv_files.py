"""Logs, texts and their like in CSV files, row by row: which file is which split, what separates cells."""

import contextlib
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.split_names import splits_among
from repel.data.tables import DELIMITERS
from repel.data.text_files import opened

__all__ = ["SPLITS", "check_column", "check_roles", "csv_header", "csv_reader", "split_files"]

SPLITS = ("train", "val", "test")


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
def csv_reader(
    file: Path, encoding: str | None, quoting: int, delimiter: str, option: str = "data.root"
) -> Iterator[Any]:
    """Rows of cells.

    Args:
        option: which names the file, for messages.

    Raises:
        ValueError: it is no CSV; names the line.
    """
    before = csv.field_size_limit(sys.maxsize)  # of a cell; a text may be a book
    try:
        with opened(file, encoding, newline="", option=option) as stream:
            reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
            try:
                yield reader
            except csv.Error as error:
                raise ValueError(
                    f"{option}: {shown(file.name)}, line {reader.line_num:,}: {error}; a quote inside of quotes is "
                    'written twice, ""; where quotes are letters like others, data.quotes=false'
                ) from error
    finally:
        csv.field_size_limit(before)


def csv_header(
    file: Path, encoding: str | None, quoting: int, wanted: Sequence[str], option: str = "data.root"
) -> tuple[list[str], str]:
    """The names in the first row, and the separator: the one that gives most of the wanted names, then most names.

    Raises:
        ValueError: with none of them it is a row.
    """
    found: list[tuple[tuple[int, int], list[str], str]] = []
    for delimiter in DELIMITERS:
        try:
            with csv_reader(file, encoding, quoting, delimiter, option) as reader:
                names = [name.strip() for name in next(reader, [])]
        except ValueError as error:  # its quotes may fit another one
            mistake = error
        else:
            found.append(((len({*wanted} & {*names}), len(names)), names, delimiter))
    if not found:
        raise mistake
    _, names, delimiter = max(found, key=lambda one: one[0])
    return names, delimiter


def check_column(option: str, name: str, header: Sequence[str], file: Path) -> None:
    """Raises ValueError where a column is not there, or is there twice."""
    if header.count(name) > 1:
        raise ValueError(f"{option}={name}: {shown(file.name)} has two columns of this name; rename one")
    if name not in header:
        there = ", ".join(map(shown, header))
        raise ValueError(f"{option}={name}: {shown(file.name)} has no such column; it has {there}")


def check_roles(columns: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError where a column is named twice: of options -> their columns."""
    for column, count in Counter(name for names in columns.values() for name in names).items():
        if count > 1:
            options = [f"data.{option}" for option, names in columns.items() if column in names]
            raise ValueError(f"{' and '.join(options)}: the column {column} is named twice; name each column once")
