"""Image datasets of Hugging Face's `datasets` on disk."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from repel.data.huggingface import load_splits, read_labels
from repel.data.samples import Splits
from repel.images.decode import File, GrayRange, check_gray_range
from repel.images.encoded import Encoded
from repel.images.shapes import Size, height_width
from repel.images.sources import Source, worker_count

__all__ = ["DatasetImages", "huggingface"]


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
    gray_range, read = check_gray_range(gray_range), load_splits(root, "data=hf")
    image = _image_column(root, read["train"].features, image_column)
    labels, classes = read_labels(root, read, label_column, "data.label_column")
    from datasets import Image

    parts = {}
    for split, dataset in read.items():
        source = DatasetImages(dataset.select_columns([image]).cast_column(image, Image(decode=False)), image, split)
        options = size, channels, on_error == "skip", worker_count(workers), gray_range
        parts[split] = Encoded(source, labels[split], None, *options)
        parts[split].check_readable(split)
    return Splits(parts["train"], parts.get("test"), parts.get("val"), classes)


def _image_column(root: str, features: Mapping[str, Any], typed: str | None) -> str:
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if typed is None and len(images) == 1:
        return images[0]
    if typed not in images:
        words = f"there are {', '.join(images)}" if images else f"none of {', '.join(features)} is one"
        raise ValueError(f"data.root={root}: data.image_column must name a column of images; {words}")
    return typed
