"""Further labels of samples, next to their class: several tasks from one representation."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repel.data.samples import Samples

__all__ = ["Table", "labels_from_classes"]


class Table:
    """Labels from a CSV file: the column `file` with the samples' names, and any number of columns of labels.

    Args:
        path: the file.

    Raises:
        ValueError: it cannot be used; names data.labels.
    """

    def __init__(self, path: str):
        try:
            with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns, rows = reader.fieldnames or [], list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"data.labels={path} cannot be read ({error})") from error
        if "file" not in columns or len(columns) < 2 or not rows:
            raise ValueError(f"data.labels={path} needs a column `file` and a column of labels, has {columns}")
        self.path, self.row = path, {row["file"]: i for i, row in enumerate(rows)}
        self.codes, self.classes = {}, {}
        for name in (name for name in columns if name != "file"):
            self.codes[name], self.classes[name] = _encode_labels([row[name] for row in rows])

    def lookup(self, names: np.ndarray | None) -> dict[str, Tensor]:
        """name of a column -> labels (N,) int64 of the samples of these names, -1 where there is none.

        Raises:
            ValueError: the samples have no names.
        """
        if names is None:
            raise ValueError(f"data.labels={self.path}: the samples of this data have no file names; leave it out")
        places = torch.tensor([self.row.get(name, -1) for name in names], dtype=torch.int64)
        return {name: codes[places].where(places >= 0, -1) for name, codes in self.codes.items()}

    def lists_none(self, samples: Samples) -> str:
        """The error where no sample stands in the table."""
        name = "" if samples.names is None else samples.names[0]
        return f"data.labels={self.path} lists none of the samples, which are named such as {name}"


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
