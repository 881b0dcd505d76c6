"""One size of the plain image, `data.image_size`, whatever a reader has stored.

Views are cut from the stored image and scaled to that size; whatever is not augmented has to have it too: evaluation
during training and after it, embedding, search.
"""

import torch

from repel.data.samples import Samples
from repel.images.encoded import Encoded
from repel.images.memory import Images

__all__ = ["at_size"]


def at_size(samples: Samples, size: int) -> Samples:
    """The same samples, whose `plain` gives images (b, C, size, size).

    Args:
        samples: images as a reader returns them, of any size, square or not.
        size: side in pixels, data.image_size.

    Raises:
        ValueError: samples of another class, whose images have another size.

    >>> images = Images(torch.zeros(2, 1, 6, 9, dtype=torch.uint8))
    >>> next(iter(at_size(images, 4).plain([torch.tensor([0])])))[0].shape
    torch.Size([1, 1, 4, 4])
    """
    if isinstance(samples, Images | Encoded):
        return samples.at_size(size)
    height, width = next(iter(samples.plain([torch.tensor([0])])))[0].shape[2:]
    if (height, width) != (size, size):
        raise ValueError(
            f"data.image_size={size}, but {type(samples).__name__} gives images of {height}x{width}; set it to their "
            "size, or scale them in the reader"
        )
    return samples
