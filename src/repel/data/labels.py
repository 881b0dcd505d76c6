"""Further labels of samples, next to their class: several tasks from one representation."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from repel.data.samples import Samples
from repel.data.tables import read_table

__all__ = ["Table", "alike", "labels_from_classes"]


UNKNOWN = {"na", "n/a", "nan", "none", "null", "?", "unknown"}  # as programs write an empty cell, in lower case
SINGLE = 0.5  # of the values of a column; where more stand in one row alone, it names things instead of classes


class Table:
    """Labels from a CSV file: a column with the samples' names, and any number of columns of labels.

    A sample may have several rows, as long as no two of them give it two labels in one column. A row names a sample as
    embed.py does, by its path in the data's folder; or by a longer path that ends with it, such as an absolute one; or
    by the end of it, such as the file's name alone, where no other sample ends so.

    Args:
        path: the file.
        encoding: of the file; None: UTF-8, or what its byte-order mark says.
        columns: those that hold labels; None: all, but those that name things, whose labels stand in one row alone.

    Raises:
        ValueError: it cannot be used; names data.labels.
    """

    def __init__(self, path: str, encoding: str | None = None, columns: Sequence[str] | None = None):
        file, found, rows = read_table(path, encoding)
        self.path, self.file_column, self.left_out = path, file, list[str]()
        if columns is not None and (missing := [name for name in columns if name not in found or name == file]):
            raise ValueError(
                f"data.label_columns: {path} has no column {missing[0]} of labels; it has {', '.join(found)}"
            )
        labels = _merge_rows(path, file, rows)
        self.row = {name: i for i, name in enumerate(labels)}
        self.codes, self.classes = {}, {}
        for name in (name for name in columns or found if name != file):
            self.codes[name], self.classes[name] = _encode_labels([row.get(name) for row in labels.values()])
        if columns is None:
            self._leave_out_names()

    def _leave_out_names(self) -> None:
        """Without columns that hold no classes, such as numbers of rows and notes, unless all are such."""
        single = [name for name in self.codes if self._stand_alone(name) is not None]
        if len(single) < len(self.codes):
            self.left_out = single
            for name in single:
                del self.codes[name], self.classes[name]

    def match(self, names: Iterable[str]) -> None:
        """Find each sample's row, given the names of all samples, by the ends of paths where they differ.

        Raises:
            ValueError: a row fits several samples, or several rows fit one.
        """
        open_names = {_match_key(name) for name in names}
        rows = self.row.keys() - open_names
        open_names -= self.row.keys()
        longer = [(name, row) for row in sorted(rows) if (name := _end_in(row, open_names)) is not None]
        open_names -= {name for name, _ in longer}
        rows -= {row for _, row in longer}
        shorter = [(name, row) for name in sorted(open_names) if (row := _end_in(name, rows)) is not None]
        for (name, row), (other_name, other_row) in pairwise(sorted(longer)):
            if name == other_name:
                raise ValueError(
                    f"data.labels={self.path}: the rows of {row} and {other_row} both fit {name}; remove one"
                )
        for (row, name), (other_row, other_name) in pairwise(sorted((row, name) for name, row in shorter)):
            if row == other_row:
                raise ValueError(
                    f"data.labels={self.path}: the row of {row} fits {name} and {other_name}; write their folders, too"
                )
        self.row |= {name: self.row.pop(row) for name, row in (*longer, *shorter)}

    def lookup(self, names: np.ndarray | None) -> dict[str, Tensor]:
        """name of a column -> labels (N,) int64 of the samples of these names, -1 where there is none.

        Raises:
            ValueError: the samples have no names.
        """
        if names is None:
            raise ValueError(f"data.labels={self.path}: the samples of this data have no file names; leave it out")
        places = torch.tensor([self.row.get(_match_key(name), -1) for name in names], dtype=torch.int64)
        return {name: codes[places].where(places >= 0, -1) for name, codes in self.codes.items()}

    def notes(self, names: Collection[str]) -> list[str]:
        """What of the table and of the samples of these names does not fit together, and columns that hold no classes.

        Args:
            names: of all samples.
        """
        known = {_match_key(name) for name in names}
        unmatched = [file for file in self.row if file not in known]
        unlisted = [name for name in names if _match_key(name) not in self.row]
        lines = [] if self.file_column == "file" else [f"the column {self.file_column} names the samples"]
        if unmatched:
            lines.append(f"{len(unmatched):,} of {len(self.row):,} files name no sample, the first: {unmatched[0]!r}")
        if unlisted:
            lines.append(f"{len(unlisted):,} of {len(names):,} samples have no row, the first: {unlisted[0]!r}")
        if self.left_out:
            lines.append(
                f"left out, as most of their labels stand in one row alone: {', '.join(self.left_out)}; "
                "'data.label_columns=[NAME]' says which columns are labels"
            )
        for column in self.codes:
            lines += [f"column {column}: {note}" for note in self._doubts(column)]
        return [f"data.labels={self.path}: {line}" for line in lines]

    def _doubts(self, column: str) -> list[str]:
        """What of a column looks like no class."""
        names = self.classes[column]
        unknown = [name for name in names if name.lower() in UNKNOWN]
        found = [f"{name!r} counts as a class; leave cells empty where the label is unknown" for name in unknown]
        if pair := alike(names):
            found.append(f"{' and '.join(map(repr, pair))} are two labels; spell them alike if they are one")
        if (single := self._stand_alone(column)) is not None:
            found.append(f"{single:,} of {len(names):,} labels stand in one row alone; as classes they measure nothing")
        return found

    def _stand_alone(self, column: str) -> int | None:
        """How many labels stand in one row alone, where these are most; else None."""
        names, codes = self.classes[column], self.codes[column]
        single = int((torch.bincount(codes[codes >= 0], minlength=1) == 1).sum())
        return single if len(names) > 2 and single > SINGLE * len(names) else None

    def lists_none(self, samples: Samples) -> str:
        """The error where no sample stands in the table."""
        name = "" if samples.names is None else samples.names[0]
        return f"data.labels={self.path} lists none of the samples, which are named such as {name}"


def _match_key(name: str) -> str:
    """A name as rows and samples are matched: without ./, folders between slashes, and an umlaut as one letter, which
    macOS writes as two."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")


def _end_in(path: str, known: Collection[str]) -> str | None:
    """The longest end of a path that is known, in whole folders; None where none is."""
    while "/" in path:
        path = path.split("/", 1)[1]
        if path in known:
            return path
    return None


def alike(names: Sequence[str]) -> list[str]:
    """The first two labels that differ in capital letters, accents' spelling or that of a number alone, if any do."""
    seen: dict[str | float, str] = {}
    for name in names:
        try:
            plain: str | float = float(name)
        except ValueError:
            plain = unicodedata.normalize("NFC", name).casefold()
        if (other := seen.setdefault(plain, name)) != name:
            return [other, name]
    return []


def _merge_rows(path: str, column_of_files: str, rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """file -> column -> label, of what is known.

    Raises:
        ValueError: two rows of a file have different labels in a column.
    """
    merged: dict[str, dict[str, str]] = {}
    for row in rows:
        file = _match_key(row[column_of_files])
        known = merged.setdefault(file, {})
        for column, label in row.items():
            if column != column_of_files and label and known.setdefault(column, label) != label:
                raise ValueError(
                    f"data.labels={path}: two rows of {file} differ in the column {column}: {known[column]!r} and "
                    f"{label!r}; a file has one label in a column, so give each kind of label a column of its own"
                )
    return merged


def _encode_labels(texts: Sequence[str | None]) -> tuple[Tensor, list[str]]:
    """Labels as numbers, -1 for an empty one, and their names in the order of the numbers."""
    names = sorted({text for text in texts if text})
    number = {text: i for i, text in enumerate(names)}
    return torch.tensor([number.get(text or "", -1) for text in texts]), names


def labels_from_classes(
    tasks: Mapping[str, Sequence[str | int]], classes: Sequence[str], labels: Tensor
) -> dict[str, Tensor]:
    """name of a task -> labels (N,), by the class of each sample; -1 where the class is unknown.

    Args:
        tasks: name -> a label for each class.

    Raises:
        ValueError: a task has not as many labels as there are classes.
    """
    found = {}
    for name, of_class in tasks.items():
        if len(of_class) != len(classes):
            raise ValueError(f"data.tasks.{name} needs a label for each of {len(classes)} classes, has {len(of_class)}")
        codes, _ = _encode_labels([str(label) for label in of_class])
        found[name] = codes[labels.clamp(min=0)].where(labels >= 0, -1)
    return found
