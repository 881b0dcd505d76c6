"""Datasets of Hugging Face's `datasets` on disk: their splits and labels, whatever the samples are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repel.base.collectives import rank
from repel.base.installation import install_extra
from repel.data.array_labels import encode_labels
from repel.data.split_names import split_named

__all__ = ["load_splits", "read_labels"]

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


def load_splits(root: str, choice: str) -> dict[str, Any]:
    """Train, val and test of a folder that `save_to_disk` wrote, or one that `load_dataset` reads; a line says which
    splits are left out. Nothing is downloaded, and no code of the dataset's is run.

    Args:
        choice: what was typed, for messages: data=hf.

    Raises:
        ValueError: the package or the folder is not there, or it holds no dataset, or no train, or two splits are one.
    """
    return _named_splits(root, _load(root, choice))


def _load(root: str, choice: str) -> Mapping[str, Any]:
    """Name -> dataset of each split."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root={root}: there is no such folder")
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{choice} needs Hugging Face's datasets: {install_extra('hf')}") from error
    try:
        with _quiet(datasets):
            if any((folder / name).is_file() for name in SAVED):
                found = datasets.load_from_disk(str(folder))
            else:
                found = datasets.load_dataset(str(folder))
    except Exception as error:  # of the many formats, any
        raise ValueError(
            f"data.root={root}: datasets cannot load it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    return found if isinstance(found, Mapping) else {"train": found}


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without progress bars of its own."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bar()


def _named_splits(root: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The splits by our names; a line says which are left out.

    Raises:
        ValueError: there is no train, or two are one.
    """
    read: dict[str, Any] = {}
    left_out = []
    for name, dataset in found.items():
        split = split_named(name) if len(found) > 1 else "train"
        if split not in ("train", "val", "test"):
            left_out.append(f"{name} ({len(dataset):,})")
        elif split in read:
            raise ValueError(f"data.root={root}: several of {', '.join(found)} look like the {split} split")
        else:
            read[split] = dataset
    if "train" not in read:
        raise ValueError(f"data.root={root} has the splits {', '.join(found)}, and none that is named train")
    if left_out and rank() == 0:
        print(f"note     data.root={root}: left out as no split of train, val and test: {', '.join(left_out)}")
    return read


def read_labels(
    root: str, read: Mapping[str, Any], typed: str | None, option: str
) -> tuple[dict[str, Tensor | None], list[str]]:
    """Split -> labels, and the names of the classes.

    Args:
        typed: the column; None: the only one of class labels, or `label`.
        option: which names it, for messages.
    """
    features = read["train"].features
    if typed is not None and typed not in features:
        raise ValueError(f"{option}={typed}: data.root={root} has the columns {', '.join(features)}")
    of_classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    column = typed or (of_classes[0] if len(of_classes) == 1 else "label" if "label" in features else None)
    if column is None:
        if len(of_classes) > 1:
            raise ValueError(f"data.root={root}: {option} must be one of {', '.join(of_classes)}")
        return dict.fromkeys(read), []
    if without := [split for split, dataset in read.items() if column not in dataset.features]:
        raise ValueError(f"data.root={root}: {without[0]} has no column {column}, which has train's labels; remove it")
    values = {split: dataset.with_format(None)[column][:] for split, dataset in read.items()}
    if column not in of_classes:
        codes, classes = encode_labels({split: np.asarray(labels) for split, labels in values.items()})
        return dict(codes), classes
    names: dict[str, list[str]] = {s: getattr(part.features[column], "names", []) for s, part in read.items()}
    if other := [split for split, own in names.items() if not own]:
        raise ValueError(f"data.root={root}: {column} of {other[0]} has no names of classes, as train has; cast it")
    classes = list(dict.fromkeys(name for own in names.values() for name in own))
    return {split: _codes(labels, names[split], classes) for split, labels in values.items()}, classes


def _codes(labels: Sequence[int | None], names: Sequence[str], classes: Sequence[str]) -> Tensor:
    """A split's labels (N,), by its own names, as places among all classes; -1 where unknown."""
    place = [classes.index(name) for name in names]
    return torch.tensor([-1 if label is None or label < 0 else place[label] for label in labels], dtype=torch.int64)
