"""Gaussian blur, batched, as a matrix per image: it acts on rows and columns separately."""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["by_strips", "kernel", "matrix", "taps"]

STRIP = 32  # pixels that one product blurs


def taps(kernel: float, size: int) -> int:
    """The kernel's width in pixels: a fraction of the image's shorter side, made odd, at least 3."""
    return max(3, int(kernel * size) // 2 * 2 + 1)


def matrix(sigma: Tensor, width: int, size: int) -> Tensor:
    """(B, size, size): row i weighs the pixels that are seen at i, reflected at the border as torchvision does.

    Args:
        sigma: (B,), in pixels; 0 leaves an image as it is.
        width: of the kernel in pixels, odd.
        size: of the image along this axis.
    """
    return (kernel(sigma, width) @ shifts(width, size, sigma.device).flatten(1)).unflatten(1, (size, size))


def kernel(sigma: Tensor, width: int) -> Tensor:
    """(B, width), what each pixel that is seen counts."""
    offset = torch.arange(width, device=sigma.device) - width // 2
    exponent = -0.5 * (offset / sigma.clamp(min=1e-6).unsqueeze(1)) ** 2
    return exponent.softmax(1)


def by_strips(images: Tensor, sigma: Tensor, width: int) -> Tensor:
    """The same blur of one large image, (1, C, H, W), sigma (1,): a strip at a time, from what a strip sees alone.

    Each is a product with a band of weights, the same for all strips and both axes.
    """
    around = 2 * (width // 2)  # pixels that a strip sees outside of itself
    band = images.new_zeros(STRIP, STRIP + width)
    band[:, :width] = kernel(sigma, width)
    band = band.flatten()[:-STRIP].view(STRIP, STRIP + around)  # row i has the kernel from column i on

    def strips(image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Along axis 1: the weights, and the pixels that are seen; the last strip may be smaller."""
        for start in range(0, image.shape[1] - around, STRIP):
            seen = image[:, start : start + STRIP + around]
            yield band[: seen.shape[1] - around, : seen.shape[1]], seen

    image = F.pad(images, [width // 2] * 4, mode="reflect")[0]
    image = torch.cat([torch.bmm(rows.expand(len(image), -1, -1), seen) for rows, seen in strips(image)], 1)
    image = torch.cat([seen @ columns.T for columns, seen in strips(image.flatten(0, 1))], 1)
    return image.view_as(images)


@functools.lru_cache(maxsize=16)
def shifts(width: int, size: int, device: torch.device) -> Tensor:
    """(width, size, size): for each tap, which pixel each output pixel sees, as 0 and 1."""
    if width // 2 >= size:
        raise ValueError(f"a blur of {width} pixels is too wide for an image of {size}; lower views' blur_kernel")
    seen = torch.arange(size) + (torch.arange(width) - width // 2).unsqueeze(1)  # (width, size)
    seen = torch.where(seen < 0, -seen, torch.where(seen >= size, 2 * (size - 1) - seen, seen))
    return torch.nn.functional.one_hot(seen, size).float().to(device)
