"""The linear color operations of an image as one affine map of its channels, `views.color=fused`.

What it leaves out of the exact path: values are clamped once, at the end, not after each operation; and hue is turned
about the gray axis, which keeps the mean of the channels, where HSV keeps the largest; at thirds of a turn they agree.
docs/benchmarks/views.md has the difference.
"""

import math

import torch
from torch import Tensor

from repel.images.views import color

__all__ = ["affine", "rotate_hue"]


def rotate_hue(shift: Tensor) -> Tensor:
    """(B,) turns -> (B, 3, 3), a rotation by that about the gray axis (Rodrigues)."""
    angle = 2 * math.pi * shift.view(-1, 1, 1)
    eye, mean = torch.eye(3, device=shift.device), torch.full((3, 3), 1 / 3, device=shift.device)
    cross = (eye.roll(1, 0) - eye.roll(2, 0)) / math.sqrt(3)
    return mean + angle.cos() * (eye - mean) + angle.sin() * cross


def affine(factors: Tensor, order: Tensor, grayscale: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The jitter in its order, then grayscale where asked for: channels x -> matrix x + (toward . mean) on each.

    Contrast moves away from the mean gray of the image as it is at that place in the order, which is linear in the mean
    of the image's channels, and adds gray, which of what follows only brightness scales.

    Args:
        factors, order: (B, 4) as in color.jitter.
        grayscale: (B,) bool.
        channels: C, 1 or 3.

    Returns:
        matrix (B, C, C) and toward (B, C).
    """
    luma = torch.tensor(color.LUMA if channels == 3 else [1.0], dtype=factors.dtype)
    luma = luma.to(factors.device, non_blocking=True)
    eye, gray = torch.eye(channels, device=factors.device), luma.expand(channels, channels)
    f = factors.view(-1, 4, 1, 1)
    desaturated = gray + f[:, color.SATURATION] * (eye - gray)
    hue = rotate_hue(factors[:, color.HUE]) if channels == 3 else eye.expand(len(f), 1, 1)
    steps = torch.stack([f[:, color.BRIGHTNESS] * eye, f[:, color.CONTRAST] * eye, desaturated, hue], 1)
    matrix, before, every = eye.expand(len(f), -1, -1), eye, torch.arange(len(f), device=factors.device)
    for now in order.unbind(1):
        before = torch.where((now == color.CONTRAST).view(-1, 1, 1), matrix, before)
        matrix = steps[every, now] @ matrix
    place = order.argsort(1)
    later = place[:, color.BRIGHTNESS] > place[:, color.CONTRAST]
    added = (1 - factors[:, color.CONTRAST]) * torch.where(later, factors[:, color.BRIGHTNESS], 1.0)
    toward = added.unsqueeze(1) * (luma @ before)
    return torch.where(grayscale.view(-1, 1, 1), gray, eye) @ matrix, toward
