"""Image datasets of Hugging Face's `datasets` on disk."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repel.base.collectives import rank
from repel.base.installation import install_extra
from repel.data.samples import Splits
from repel.images.array_labels import encode_labels
from repel.images.decode import File, GrayRange, check_gray_range
from repel.images.encoded import Encoded
from repel.images.shapes import Size, height_width
from repel.images.sources import Source, worker_count
from repel.images.split_names import split_named

__all__ = ["DatasetImages", "huggingface"]

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


class DatasetImages(Source):
    """The images of one split, as encoded in the dataset's files."""

    def __init__(self, dataset: Any, column: str, split: str):
        self.dataset, self.column, self.split = dataset, column, split

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[str, File]:
        image = self.dataset[int(index)][self.column] or {}
        name = f"{self.split}/{image.get('path') or f'{index:06d}'}"
        return name, image.get("bytes") or image.get("path") or b""

    def name(self, index: int) -> str:
        return self[index][0]

    def keys(self, index: Sequence[int]) -> Tensor | None:
        return None  # paths need not be there, nor differ

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        yield torch.randperm(len(self), generator=generator)


def huggingface(
    root: str,
    size: Size,
    channels: int,
    on_error: str = "raise",
    workers: int | str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    gray_range: GrayRange | None = None,
) -> Splits:
    """Read a folder that `save_to_disk` wrote, or one that `load_dataset` reads, such as of Parquet files.

    Nothing is downloaded, and no code of the dataset's is run.

    Args:
        root: the folder.
        size: of the plain image, in pixels: a square's side, or height and width.
        channels: 3 for RGB, 1 for gray.
        on_error: what to do with an image that cannot be read: `raise`, or `skip` it and list it.
        workers: processes that decode, or auto.
        image_column, label_column: where there are several; None: the only column of images, and of class labels, or
            the one that is named label.
        gray_range: the values of gray images of more than 8 bits that become black and white; None: 0 and 65535.

    Raises:
        ValueError: an option, or what is in the folder.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"data.on_error must be raise or skip, got {on_error!r}")
    if channels not in (1, 3):
        raise ValueError(f"data.channels must be 1 or 3, got {channels}")
    height_width(size)
    gray_range, read = check_gray_range(gray_range), _named_splits(root, _load(root))
    image = _image_column(root, read["train"].features, image_column)
    labels, classes = _labels(root, read, label_column)
    from datasets import Image

    parts = {}
    for split, dataset in read.items():
        source = DatasetImages(dataset.select_columns([image]).cast_column(image, Image(decode=False)), image, split)
        options = size, channels, on_error == "skip", worker_count(workers), gray_range
        parts[split] = Encoded(source, labels[split], None, *options)
        parts[split].check_readable(split)
    return Splits(parts["train"], parts.get("test"), parts.get("val"), classes)


def _load(root: str) -> Mapping[str, Any]:
    """Name -> dataset of each split."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root={root}: there is no such folder")
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data=hf needs Hugging Face's datasets: {install_extra('hf')}") from error
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


def _image_column(root: str, features: Mapping[str, Any], typed: str | None) -> str:
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if typed is None and len(images) == 1:
        return images[0]
    if typed not in images:
        words = f"there are {', '.join(images)}" if images else f"none of {', '.join(features)} is one"
        raise ValueError(f"data.root={root}: data.image_column must name a column of images; {words}")
    return typed


def _labels(root: str, read: Mapping[str, Any], typed: str | None) -> tuple[dict[str, Tensor | None], list[str]]:
    """Split -> labels, and the names of the classes."""
    features = read["train"].features
    if typed is not None and typed not in features:
        raise ValueError(f"data.label_column={typed}: data.root={root} has the columns {', '.join(features)}")
    of_classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    column = typed or (of_classes[0] if len(of_classes) == 1 else "label" if "label" in features else None)
    if column is None:
        if len(of_classes) > 1:
            raise ValueError(f"data.root={root}: data.label_column must be one of {', '.join(of_classes)}")
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
