"""Colour operations on batches: images (B, C, H, W) float in [0, 1], factors (B,), one per image.

Each equals torchvision's functional form for the same factor. With one channel an image is its own grayscale, so
saturation and hue have nothing to change and return it as it is.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


def column(factor: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to act on images."""
    return factor.view(-1, 1, 1, 1)


def grayscale(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA)).unsqueeze(1)


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor 0 gives other, 1 the image, above 1 moves away from other."""
    return torch.lerp(other.expand_as(images), images, column(factor)).clamp(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * column(factor)).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    return blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else blend(images, grayscale(images), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by shift, in turns in [-0.5, 0.5], through HSV."""
    if images.shape[1] == 1:
        return images
    value, spread = images.amax(1, keepdim=True), images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    r, g, b = images.split(1, dim=1)
    safe = torch.where(spread > 0, spread, 1.0)
    sector = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    # HSV -> RGB in one expression: channel n is value - spread * max(0, min(k, 4 - k, 1)), k = (n + sector) mod 6
    n = images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (n + sector + 6 * column(shift)) % 6
    return value - spread * torch.minimum(k, 4 - k).clamp(0, 1)


def gamma(images: Tensor, exponent: Tensor) -> Tensor:
    return images.clamp(0, 1) ** column(exponent)
