"""What readers of images return: a set in memory, or one that is decoded batch by batch (encoded.py)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Union

import numpy as np
import torch
from torch import Tensor

from repel.images.modality import IMAGES, ImageModality

if TYPE_CHECKING:
    from repel.images.encoded import Encoded


class BadImage(Exception):
    """A file that cannot be read, where the user asked to stop at one."""


@dataclass(frozen=True)
class Images:
    """A set held in memory.

    pixels (N, C, H, W) uint8; labels (N,) int64, -1 where unknown, or None; names (N,) of the files, or None.
    """

    pixels: Tensor
    labels: Tensor | None = None
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def modality(self) -> ImageModality:
        return IMAGES

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return tuple(self.pixels.shape[1:])

    def __getitem__(self, index: Tensor | slice) -> "Images":
        names = self.names
        if names is not None:
            names = names[index if isinstance(index, slice) else index.numpy()]
        return Images(self.pixels[index], None if self.labels is None else self.labels[index], names)

    @property
    def labelled(self) -> "Images":
        """The images whose label is known."""
        assert self.labels is not None, "asked for the labels of unlabelled images"
        known = self.labels >= 0
        return self if bool(known.all()) else self[known]

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """All places in random order, in pieces."""
        yield torch.randperm(len(self), generator=generator)

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Evaluation's batches: pixels (b, C, H, W) uint8 at each of the places, and which could be read, (b,)."""
        for place in places:
            yield self.pixels[place], torch.ones(len(place), dtype=torch.bool)


@dataclass(frozen=True)
class Splits:
    """What a reader returns. Without `val`, or without `test`, a part of `train` is held out for it.

    skipped: files that could not be read, where the user asked to go on without them.
    """

    train: Union[Images, "Encoded"]
    test: Union[Images, "Encoded", None] = None
    val: Union[Images, "Encoded", None] = None
    classes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
