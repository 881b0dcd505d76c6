"""Images that are held in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from repel.data.memory import TensorSamples
from repel.images.modality import IMAGES, ImageModality

__all__ = ["Images"]


@dataclass(frozen=True)
class Images(TensorSamples):
    """Images of one size: x (N, C, H, W) uint8; names (N,) of their files, or None.

    size: side of the plain image, in pixels: the largest centered square of the stored one, scaled. None: as stored.
    """

    size: int | None = None

    @property
    def modality(self) -> ImageModality:
        return IMAGES

    @property
    def pixels(self) -> Tensor:
        return self.x

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of the plain image."""
        channels, height, width = self.x.shape[1:]
        return (channels, height, width) if self.size is None else (channels, self.size, self.size)

    @property
    def description(self) -> str:
        (channels, height, width), stored = self.shape, self.x.shape[2:]
        scaled = "" if stored == (height, width) else f", stored as {stored[0]}x{stored[1]}"
        return f"images of {height}x{width}x{channels}{scaled}"

    def at_size(self, size: int) -> Self:
        """The same images, whose plain image has this side."""
        return replace(self, size=size)

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Evaluation's batches: pixels (b, C, S, S) uint8 at each of the places, and which could be read, (b,): all."""
        for pixels, good in super().plain(places):
            yield pixels if self.size is None else _scaled_center(pixels, self.size), good

    def picture_size(self, place: int) -> tuple[int, int]:
        """Height and width of the picture that crops are cut from."""
        return self.x.shape[2], self.x.shape[3]


def _scaled_center(pixels: Tensor, size: int) -> Tensor:
    """(b, C, H, W) uint8 -> (b, C, size, size), as decode.decode makes it of a file, within one of 255 levels.

    Bilinear and antialiased, which is Pillow's arithmetic also in torch; where the square's place falls between two
    pixels, it is half a pixel further up or left.
    """
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    return square if side == size else F.interpolate(square, (size, size), mode="bilinear", antialias=True)
