"""The plain view, evaluation's: no augmentation."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Normalize", "to_float"]


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1]; floats stay as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


class Normalize:
    """Subtract mean and divide by std, one value per channel: (B, C, H, W) -> (B, C, H, W), the view of evaluation.

    Args:
        mean: C values, of images in [0, 1].
        std: C values, above 0.

    Raises:
        ValueError: mean and std differ in length, or a std is not above 0; in a call: images have not C channels.

    >>> Normalize(mean=[0.5], std=[0.25])(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
    [[[[-2.0, 2.0]]]]
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std need one value per channel and std > 0, got mean={mean} std={std}")
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, C, H, W), uint8 in [0, 255] or float in [0, 1] -> float, normalized, of the same shape."""
        images = to_float(images)
        return self.into(torch.empty_like(images), images)

    def into(self, out: Tensor, images: Tensor) -> Tensor:
        """The same for floats, written to out."""
        mean, std = self.constants(images)
        return torch.sub(images, mean, out=out).div_(std)

    def constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """mean and std, (C, 1, 1)."""
        if images.shape[1] != len(self.mean):
            raise ValueError(f"images have {images.shape[1]} channels, data.mean has {len(self.mean)} values")
        # non_blocking: the host would wait for all that the device still has to do
        mean, std = (torch.tensor(v).to(images.device, non_blocking=True) for v in (self.mean, self.std))
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)
