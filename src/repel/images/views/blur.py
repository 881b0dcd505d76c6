"""Gaussian blur, batched, as a matrix per image: it acts on rows and columns separately."""

import functools

import torch
from torch import Tensor

__all__ = ["matrix", "taps"]


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
    offset = torch.arange(width, device=sigma.device) - width // 2
    exponent = -0.5 * (offset / sigma.clamp(min=1e-6).unsqueeze(1)) ** 2
    return (exponent.softmax(1) @ shifts(width, size, sigma.device).flatten(1)).unflatten(1, (size, size))


@functools.lru_cache(maxsize=16)
def shifts(width: int, size: int, device: torch.device) -> Tensor:
    """(width, size, size): for each tap, which pixel each output pixel sees, as 0 and 1."""
    if width // 2 >= size:
        raise ValueError(f"a blur of {width} pixels is too wide for an image of {size}; lower views' blur_kernel")
    seen = torch.arange(size) + (torch.arange(width) - width // 2).unsqueeze(1)  # (width, size)
    seen = torch.where(seen < 0, -seen, torch.where(seen >= size, 2 * (size - 1) - seen, seen))
    return torch.nn.functional.one_hot(seen, size).float().to(device, non_blocking=True)
