"""CSV files of many rows, read column by column: names, numbers, times."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from repel.base.terminal import shown
from repel.data.csv_files import check_column, csv_header, csv_reader

__all__ = ["CsvFormat", "CsvTable", "TimeColumn", "floats", "timestamps"]

ROWS = 5_000  # that are taken apart at once
TYPE = re.compile(r":(token|float)(_seq)?$")  # which RecBole's files have behind the names of columns
NAMES = {  # of columns, in lower case without _, where none is typed
    "user": {"user", "userid", "uid", "customer", "customerid", "reviewerid", "visitorid"},
    "item": {"item", "itemid", "product", "productid", "movieid", "asin", "parentasin", "bookid", "trackid"},
}
Rows = Sequence[int]  # the number of each row in its file, from 1


@dataclass(frozen=True)
class CsvFormat:
    """How files are written.

    encoding: see text_files.opened.
    quotes: whether double quotes stand around cells that hold separators.
    header: whether the first row names the columns; else they are known by their numbers, from 1.
    """

    encoding: str | None = None
    quotes: bool = True
    header: bool = True

    @property
    def quoting(self) -> int:
        return csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE


class CsvTable:
    """A file and the names of its columns.

    Args:
        file: of whichever separator gives most of the wanted columns, then most columns.
        format: how it is written.
        wanted: names of columns.
        option: which names the file, for messages.

    Raises:
        ValueError: it cannot be read.
    """

    def __init__(self, file: Path, format: CsvFormat, wanted: Sequence[str], option: str = "data.root"):
        self.file, self.format, self.option = file, format, option
        self.first, self.delimiter = csv_header(file, format.encoding, format.quoting, wanted, option)
        if not self.first:
            raise ValueError(f"{option}: {shown(file.name)} is empty, or begins with an empty line")
        self.names = [TYPE.sub("", name) for name in self.first]
        if not format.header:
            self.names = [str(number) for number, _ in enumerate(self.first, 1)]

    def column(self, role: str, typed: str | None) -> str:
        """The column of users or items: the one that was typed, else the only one that is named as such are.

        Raises:
            ValueError: it is not there, or none or several are so named.
        """
        name, there = shown(self.file.name), ", ".join(map(shown, self.names)) + self._otherwise(role)
        if typed is not None and typed not in self.names:
            raise ValueError(f"data.{role}={typed}: {name} has no such column; it has {there}")
        if typed is not None:
            check_column(f"data.{role}", typed, self.names, self.file)
            return typed
        fitting = [known for known in self.names if re.sub(r"[_ ]", "", known.lower()) in NAMES.get(role, ())]
        if len(fitting) != 1:
            raise ValueError(f"data.{role}=COLUMN must say which column holds the {role}s; {name} has {there}")
        return fitting[0]

    def _otherwise(self, role: str) -> str:
        """'; ' and how to read a file whose first row names no columns, or nothing."""
        if any("::" in name for name in self.first):
            return r"; one character must separate cells, and here :: does: sed 's/::/\t/g' puts tabs there"
        cells = [cell for name in self.first for cell in name.split()]
        if len(self.first) == 1 and len(cells) > 1 and all(map(str.isdecimal, cells)):
            return "; data=interactions_lightgcn reads lines of a user and its items"
        if role in NAMES and self.format.header and any(map(str.isdecimal, cells)):
            return "; if this row is an interaction, as others are, data.header=false data.user=1 data.item=2"
        return ""

    def chunks(self, columns: Sequence[str]) -> Iterator[tuple[Rows, list[list[str]]]]:
        """The numbers of some rows, and of each of the columns their cells; empty rows are left out.

        Raises:
            ValueError: a row has more cells than there are columns.
        """
        places, first = [self.names.index(name) for name in columns], 1
        with csv_reader(self.file, self.format.encoding, self.format.quoting, self.delimiter, self.option) as reader:
            if self.format.header:
                next(reader, None)
                first += 1
            while rows := list(islice(reader, ROWS)):
                numbers: Rows = range(first, first + len(rows))
                first += len(rows)
                if set(map(len, rows)) != {len(self.names)}:
                    numbers, rows = self._of_equal_length(numbers, rows)
                yield numbers, [list(map(itemgetter(place), rows)) for place in places]

    def _of_equal_length(self, numbers: Rows, rows: list[list[str]]) -> tuple[Rows, list[list[str]]]:
        """Rows that are not empty, short ones filled up."""
        width = len(self.names)
        for number, row in zip(numbers, rows, strict=True):
            if any(cell.strip() for cell in row[width:]):
                raise ValueError(
                    f"{self.option}: {shown(self.file.name)}, row {number:,}: {len(row)} cells, and the first row has "
                    f"{width}; put quotes around cells that hold {self.delimiter!r}"
                )
        kept = [(number, row + [""] * (width - len(row))) for number, row in zip(numbers, rows, strict=True) if row]
        return [number for number, _ in kept], [row for _, row in kept]


def floats(cells: Sequence[str], rows: Rows, where: str) -> np.ndarray:
    """(n,) float64 of cells, NaN where one is empty.

    Args:
        rows: their numbers.
        where: option and file, for messages.

    Raises:
        ValueError: a cell is no number.
    """
    try:
        found = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        found = np.array([_number(cell, row, where) for cell, row in zip(cells, rows, strict=True)], np.float64)
    if (endless := np.isinf(found)).any():
        place = int(endless.argmax())
        raise ValueError(f"{where}, row {rows[place]:,}: {cells[place]} is no finite number; correct or remove the row")
    return found


def _number(cell: str, row: int, where: str) -> float:
    try:
        return float(cell) if cell.strip() else np.nan
    except ValueError as error:
        hint = "decimals stand behind a point" if "," in cell else "correct or remove the row, or name another column"
        raise ValueError(f"{where}, row {row:,}: {cell[:40]!r} is no number; {hint}") from error


def timestamps(cells: Sequence[str], rows: Rows, where: str) -> np.ndarray:
    """(n,) float64, seconds since 1970, of cells that are ISO 8601 dates, NaN where one is empty.

    Without a time zone a date is taken for one of UTC.

    Raises:
        ValueError: a cell is none.

    Example:
        >>> timestamps(["1970-01-02", "1970-01-01 00:00:07", ""], range(1, 4), "data.time").tolist()
        [86400.0, 7.0, nan]
    """
    parsed = {"": np.nan}
    for place, cell in enumerate(cells):
        if cell not in parsed:
            try:
                date = datetime.fromisoformat(cell.strip()) if cell.strip() else None
            except ValueError as error:
                raise ValueError(
                    f"{where}, row {rows[place]:,}: {cell[:40]!r} is no date as 2024-12-31 or 2024-12-31 23:59:59; all "
                    "times of a file must be numbers, or all such dates"
                ) from error
            aware = date if date is None or date.tzinfo else date.replace(tzinfo=UTC)
            parsed[cell] = np.nan if aware is None else aware.timestamp()
    return np.fromiter(map(parsed.__getitem__, cells), np.float64, len(cells))


class TimeColumn:
    """Times of one file: all numbers, or all dates, as the first that is there.

    dates: whether they are dates; None before one was read.
    """

    def __init__(self) -> None:
        self.dates: bool | None = None

    def read(self, cells: Sequence[str], rows: Rows, where: str) -> np.ndarray:
        """As floats or timestamps."""
        if self.dates is None and (first := next((cell for cell in cells if cell.strip()), None)) is not None:
            try:
                float(first)
                self.dates = False
            except ValueError:
                self.dates = True
        return (timestamps if self.dates else floats)(cells, rows, where)
