"""Images that are decoded batch by batch: files too large for memory, or records of shards.

Worker processes read, decode and crop; what is left of the views is made on the device. A crop is cut from the whole
picture, at its full resolution, and so sees more than one that is cut from a scaled copy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repel.base.terminal import shown
from repel.data.loading import make_loader
from repel.data.samples import DataInfo, Fetched, UnreadableSample
from repel.data.views import Params, ViewDraws
from repel.images.decode import File, GrayRange, decode, decode_crops, opened, reason, upright_size
from repel.images.modality import IMAGES, ImageModality
from repel.images.shapes import Box, Size, height_width, size_in_words
from repel.images.sources import Source
from repel.images.views import crop
from repel.images.views.views import Views

__all__ = ["Encoded", "none_readable"]

GEOMETRY = ("area", "aspect", "position", "flip")  # what a worker needs of a view's parameters


@dataclass(frozen=True)
class Encoded:
    """A part of a source.

    Args:
        source: the images.
        labels: (N,) int64, -1 where unknown, or None.
        index: (N,) which of the source's items these are; None: all.
        size: of the plain image, in pixels: a square's side, or height and width.
        channels: 1 or 3.
        skip: continue without files that cannot be read. A batch then takes the next one that can, so that all batches
            have the same size; evaluation leaves them out.
        workers: processes that read.
        gray_range: data.range, see decode.to_8_bit.
    """

    source: Source
    labels: Tensor | None
    index: Tensor | None
    size: Size
    channels: int
    skip: bool
    workers: int
    gray_range: GrayRange | None = None

    def __len__(self) -> int:
        return len(self.source) if self.index is None else len(self.index)

    @property
    def modality(self) -> ImageModality:
        return IMAGES

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, *height_width(self.size)

    @property
    def description(self) -> str:
        size = size_in_words(self.size)
        return f"images of {size}x{self.channels}, decoded for every batch, workers: {self.workers}"

    def __getitem__(self, index: Tensor) -> "Encoded":
        index = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
        labels = None if self.labels is None else self.labels[index]
        return replace(self, index=index if self.index is None else self.index[index], labels=labels)

    @property
    def labelled(self) -> "Encoded":
        assert self.labels is not None, "asked for the labels of unlabeled images"
        known = self.labels >= 0
        return self if bool(known.all()) else self[known]

    def with_labels(self, labels: Tensor | None) -> "Encoded":
        return replace(self, labels=labels)

    def at_size(self, size: Size) -> "Encoded":
        """The same images, whose plain image has this size."""
        return replace(self, size=size)

    def info(self) -> DataInfo:
        return DataInfo(len(self))

    @property
    def names(self) -> np.ndarray:
        """(N,), read anew each time: of shards, each record is opened for it."""
        index = range(len(self.source)) if self.index is None else self.index.tolist()
        return np.array([self.source.name(i) for i in index], dtype=object)

    def keys(self) -> Tensor | None:
        return self.source.keys(range(len(self.source)) if self.index is None else self.index.tolist())

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        if self.index is None:
            yield from self.source.order(generator)
        else:
            yield torch.randperm(len(self), generator=generator)

    def open(self, place: int) -> tuple[str, File]:
        return self.source[place if self.index is None else int(self.index[place])]

    def picture_size(self, place: int) -> tuple[int, int]:
        """Height and width of the picture, of which the plain image is the scaled center."""
        with opened(self.open(place)[1]) as image:
            return upright_size(image)

    def fetch(self, places: Tensor, draws: ViewDraws) -> Fetched:
        return self.crops(places, draws.views, draws.params())

    def crops(self, places: Tensor, views: Views, params: Params) -> Fetched:
        """The crops that views of these params ask for, made from whole pictures: a list of (B, C, H, W) uint8."""
        sizes = [augmentation.size for augmentation in views.augmentations]
        found, skipped = places.tolist(), list[str]()
        crops: list[list[np.ndarray]] = [[]] * len(places)
        items = places if self.index is None else self.index[places]
        for row in items.argsort().tolist():  # in the source's order: a chunk of a shard is opened once
            draws = [{name: p[name][row : row + 1] for name in GEOMETRY} for p in params]
            read = partial(self._views, draws=draws, sizes=sizes)
            for attempt in range(len(self)):
                found[row] = (int(places[row]) + attempt) % len(self)
                made = self.read_or_skip(found[row], read, skipped)
                if made is not None:
                    break
            else:
                raise UnreadableSample(f"none of the {len(self)} images can be read, the first: {skipped[0]}")
            crops[row] = made
        stacked = [torch.from_numpy(np.stack(view)) for view in zip(*crops, strict=True)]
        return Fetched(torch.tensor(found), stacked, skipped)

    def center(self, file: File) -> list[np.ndarray]:
        """The plain image (C, H, W) of a file, as a list of one."""
        return [decode(file, self.size, self.channels, self.gray_range)]

    def _views(self, file: File, draws: Params, sizes: Sequence[Size]) -> list[np.ndarray]:
        """The crops of one file that these draws, of one row each, ask for: (C, H, W) uint8, one per view."""

        def boxes(height: int, width: int) -> list[Box]:
            return [tuple(crop.boxes(p["area"], p["aspect"], p["position"], height, width)[0].tolist()) for p in draws]

        return decode_crops(file, boxes, sizes, [bool(p["flip"]) for p in draws], self.channels, self.gray_range)

    def check_readable(self, split: str) -> None:
        """Raises ValueError where none of the images can be read; where one must not be skipped, for the first."""
        skipped = list[str]()
        try:
            if any(self.read_or_skip(place, self.center, skipped) is not None for place in range(len(self))):
                return
        except UnreadableSample as error:
            raise ValueError(str(error)) from error
        raise ValueError(none_readable(split, skipped))

    def read_or_skip(
        self, place: int, read: Callable[[File], list[np.ndarray]], skipped: list[str]
    ) -> list[np.ndarray] | None:
        """What read makes of an image; None, and a line in skipped, where it cannot.

        Raises:
            UnreadableSample: it cannot, and the user did not ask to continue without it.
        """
        name, file = self.open(place)
        try:
            return read(file)
        except Exception as error:  # a damaged file can make Pillow raise anything
            why = reason(error)
        if not self.skip:
            raise UnreadableSample(
                f"cannot read the image {shown(name)} ({why}); remove it, or leave such files out by data.on_error=skip"
            )
        skipped.append(f"{shown(name)}: {why}")
        return None

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Evaluation's batches: pixels (b, C, H, W) uint8 at each of the places, and which could be read, (b,)."""
        for batch in make_loader(CenterCrops(self), places, self.workers):
            if isinstance(batch, UnreadableSample):
                raise batch
            yield batch


def none_readable(split: str, skipped: Sequence[str]) -> str:
    """The error of a split without images."""
    return f"none of the {len(skipped):,} images of the {split} split can be read, the first: {skipped[0]}"


class CenterCrops(Dataset):
    """The center of each image, a batch at a time."""

    def __init__(self, images: Encoded):
        self.images = images

    def __getitem__(self, places: Tensor) -> tuple[Tensor, Tensor] | UnreadableSample:
        images, pixels = self.images, []
        try:
            for place in places.tolist():
                pixels.append(images.read_or_skip(place, images.center, []))
        except UnreadableSample as error:
            return error  # raised here, it would come out as a traceback of the worker
        good = [p is not None for p in pixels]
        blank = np.zeros(images.shape, np.uint8)
        return torch.from_numpy(np.stack([blank if p is None else p[0] for p in pixels])), torch.tensor(good)
