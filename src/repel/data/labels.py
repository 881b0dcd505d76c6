"""Further labels of samples, next to their class: several tasks from one representation."""

import csv
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repel.data.samples import Samples

__all__ = ["Table", "labels_from_classes"]


UNKNOWN = {"na", "n/a", "nan", "none", "null", "?", "unknown"}  # as programs write an empty cell, in lower case
SINGLE = 0.5  # of the values of a column; where more stand in one row alone, it names things instead of classes


class Table:
    """Labels from a CSV file: the column `file` with the samples' names, and any number of columns of labels.

    A sample may have several rows, as long as no two of them give it two labels in one column.

    Args:
        path: the file.

    Raises:
        ValueError: it cannot be used; names data.labels.
    """

    def __init__(self, path: str):
        try:
            with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
                rows = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"data.labels={path} cannot be read ({error})") from error
        if "file" not in columns or len(columns) < 2 or not rows:
            raise ValueError(f"data.labels={path} needs a column `file` and a column of labels, has {columns}")
        if twice := [name for name, count in Counter(columns).items() if count > 1]:
            raise ValueError(f"data.labels={path} has two columns of the name {twice[0]}; rename one or remove it")
        if long := [row for row in rows if None in row]:
            raise ValueError(f"data.labels={path}: the row of {long[0]['file']} has more cells than there are columns")
        self.path, labels = path, _merge_rows(path, rows)
        self.row = {name: i for i, name in enumerate(labels)}
        self.codes, self.classes = {}, {}
        for name in (name for name in columns if name != "file"):
            self.codes[name], self.classes[name] = _encode_labels([row.get(name) for row in labels.values()])

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
        lines = []
        if unmatched:
            lines.append(f"{len(unmatched):,} of {len(self.row):,} files name no sample, the first: {unmatched[0]!r}")
        if unlisted:
            lines.append(f"{len(unlisted):,} of {len(names):,} samples have no row, the first: {unlisted[0]!r}")
        for column in self.codes:
            lines += [f"column {column}: {note}" for note in self._doubts(column)]
        return [f"data.labels={self.path}: {line}" for line in lines]

    def _doubts(self, column: str) -> list[str]:
        """What of a column looks like no class."""
        names, codes = self.classes[column], self.codes[column]
        unknown = [name for name in names if name.lower() in UNKNOWN]
        found = [f"{name!r} counts as a class; leave cells empty where the label is unknown" for name in unknown]
        if alike := _alike(names):
            found.append(f"{' and '.join(map(repr, alike))} are two labels; spell them alike if they are one")
        single = int((torch.bincount(codes[codes >= 0], minlength=1) == 1).sum())
        if len(names) > 2 and single > SINGLE * len(names):
            found.append(f"{single:,} of {len(names):,} labels stand in one row alone; as classes they measure nothing")
        return found

    def lists_none(self, samples: Samples) -> str:
        """The error where no sample stands in the table."""
        name = "" if samples.names is None else samples.names[0]
        return f"data.labels={self.path} lists none of the samples, which are named such as {name}"


def _match_key(name: str) -> str:
    """A name as rows and samples are matched: without ./, and an umlaut is one letter, which macOS writes as two."""
    return unicodedata.normalize("NFC", name).removeprefix("./")


def _alike(names: Sequence[str]) -> list[str]:
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


def _merge_rows(path: str, rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """file -> column -> label, of what is known.

    Raises:
        ValueError: two rows of a file have different labels in a column.
    """
    merged: dict[str, dict[str, str]] = {}
    for row in rows:
        file = _match_key(row["file"] or "")
        known = merged.setdefault(file, {})
        for column, cell in row.items():
            label = (cell or "").strip()
            if label and known.setdefault(column, label) != label:
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
