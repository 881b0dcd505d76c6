"""One size of the plain image, `data.image_size`, whatever a reader has stored.

Views are cut from the stored image and scaled to that size; whatever is not augmented has to have it too: evaluation
during training and after it, embedding, search.
"""

from typing import Protocol, Self, runtime_checkable

import torch

from repel.data.samples import Samples
from repel.images.shapes import Size, height_width

__all__ = ["SizedImages", "at_size"]


@runtime_checkable
class SizedImages(Protocol):
    """Images that give a plain image of any size, and say how large the picture is that crops are cut from."""

    def at_size(self, size: Size) -> Self: ...

    def picture_size(self, place: int) -> tuple[int, int]: ...


def at_size(samples: Samples, size: Size) -> Samples:
    """The same samples, whose `plain` gives images (b, C, *size).

    Args:
        samples: images as a reader returns them, of any size, square or not.
        size: data.image_size, in pixels: a square's side, or height and width.

    Raises:
        ValueError: no size; samples of another class, whose images have another size.

    >>> from repel.images.memory import Images
    >>> images = Images(torch.zeros(2, 1, 6, 9, dtype=torch.uint8))
    >>> next(iter(at_size(images, 4).plain([torch.tensor([0])])))[0].shape
    torch.Size([1, 1, 4, 4])
    """
    sides = height_width(size)
    if isinstance(samples, SizedImages):
        return samples.at_size(sides)
    height, width = next(iter(samples.plain([torch.tensor([0])])))[0].shape[2:]
    if (height, width) != sides:
        raise ValueError(
            f"data.image_size={size}, but {type(samples).__name__} gives images of {height}x{width}; set it to their "
            "size, or scale them in the reader"
        )
    return samples
