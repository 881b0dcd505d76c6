"""Images that are held in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from repel.data.memory import TensorSamples
from repel.images.modality import IMAGES, ImageModality
from repel.images.shapes import Size, center_box, height_width

__all__ = ["Images", "scaled_center"]


@dataclass(frozen=True)
class Images(TensorSamples):
    """Images of one size: x (N, C, H, W) uint8; names (N,) of their files, or None.

    size: of the plain image, in pixels, a square's side, or height and width: the largest centered box of its aspect in
        the stored image, scaled. None: as stored.
    """

    size: Size | None = None

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
        return (channels, height, width) if self.size is None else (channels, *height_width(self.size))

    @property
    def description(self) -> str:
        (channels, height, width), stored = self.shape, self.x.shape[2:]
        scaled = "" if stored == (height, width) else f", stored as {stored[0]}x{stored[1]}"
        return f"images of {height}x{width}x{channels}{scaled}"

    def at_size(self, size: Size) -> Self:
        """The same images, whose plain image has this size."""
        return replace(self, size=size)

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Evaluation's batches: pixels (b, C, H, W) uint8 at each of the places, and which could be read, (b,): all."""
        for pixels, good in super().plain(places):
            yield pixels if self.size is None else scaled_center(pixels, self.size), good

    def picture_size(self, place: int) -> tuple[int, int]:
        """Height and width of the picture that crops are cut from."""
        return self.x.shape[2], self.x.shape[3]


def scaled_center(pixels: Tensor, size: Size) -> Tensor:
    """(b, C, H, W) uint8 -> (b, C, *size), as decode.decode makes it of a file, within one of 255 levels.

    Bilinear and antialiased, which is Pillow's arithmetic also in torch; where the box's place falls between two
    pixels, it is half a pixel further up or left.
    """
    stored_height, stored_width = pixels.shape[2:]
    top, left, height, width = map(int, center_box(stored_height, stored_width, size))
    center, sides = pixels[..., top : top + height, left : left + width], height_width(size)
    return center if sides == (height, width) else F.interpolate(center, sides, mode="bilinear", antialias=True)
