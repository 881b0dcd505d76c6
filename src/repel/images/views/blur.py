"""Gaussian blur, batched, as a matrix per image: it acts on rows and columns separately."""

import functools

import torch
from torch import Tensor

__all__ = ["by_strips", "matrix", "taps"]

STRIP = 32  # pixels that are blurred by one product


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


def by_strips(images: Tensor, rows: Tensor, columns: Tensor, reach: int) -> Tensor:
    """crop.resample by a blur's matrices, (1, H, H) and (1, W, W), of one image, (1, C, H, W).

    A blurred pixel sees none that is farther than `reach`: a strip of them is a product with the strip around it alone.
    """
    image, (height, width) = images[0], images.shape[2:]

    def strips(pixels: int) -> list[tuple[slice, slice]]:
        starts = range(0, pixels, STRIP)
        return [(slice(a, a + STRIP), slice(max(0, a - reach), a + STRIP + reach)) for a in starts]

    image = torch.cat([rows[0, to, seen] @ image[:, seen] for to, seen in strips(height)], 1).flatten(0, 1)
    image = torch.cat([image[:, seen] @ columns[0, to, seen].T for to, seen in strips(width)], 1)
    return image.view_as(images)


@functools.lru_cache(maxsize=16)
def shifts(width: int, size: int, device: torch.device) -> Tensor:
    """(width, size, size): for each tap, which pixel each output pixel sees, as 0 and 1."""
    if width // 2 >= size:
        raise ValueError(f"a blur of {width} pixels is too wide for an image of {size}; lower views' blur_kernel")
    seen = torch.arange(size) + (torch.arange(width) - width // 2).unsqueeze(1)  # (width, size)
    seen = torch.where(seen < 0, -seen, torch.where(seen >= size, 2 * (size - 1) - seen, seen))
    return torch.nn.functional.one_hot(seen, size).float().to(device)
