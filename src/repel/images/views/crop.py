"""Geometry, batched: random resized crop and flip as one resampling with antialiasing; rotation; cutout.

A crop, a flip and a blur act on rows and columns separately. So each is a matrix per axis and image, and the whole is
two matrix products: nothing is gathered pixel by pixel, borders are those of the crop, and one matrix may be several.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repel.images.shapes import Size, height_width

__all__ = ["boxes", "by_lines", "crop_resize", "draw_boxes", "erase", "interpolate", "resample", "rotate", "weights"]

ATTEMPTS = 10  # torchvision tries ten boxes before it falls back to the center


def draw_boxes(n: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator) -> dict:
    """What a box needs before the image's size is known: ten (area, aspect) attempts and a position, each (n, ...)."""
    area = torch.empty(n, ATTEMPTS).uniform_(*scale, generator=generator)
    aspect = torch.empty(n, ATTEMPTS).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator).exp()
    return {"area": area, "aspect": aspect, "position": torch.rand(n, 2, generator=generator)}


def boxes(area: Tensor, aspect: Tensor, position: Tensor, height: int, width: int) -> Tensor:
    """(n, 4) integer boxes (top, left, height, width) as torchvision's RandomResizedCrop.get_params makes them.

    From parameters on the CPU, by numpy: a worker calls this for one image at a time, where torch takes five times as
    long.
    """
    areas, aspects, positions = area.numpy(), aspect.numpy(), position.numpy()
    w, h = (np.sqrt(height * width * x).round() for x in (areas * aspects, areas / aspects))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(1)[:, None]
    w, h = (np.take_along_axis(x, first, 1)[:, 0] for x in (w, h))
    # none fits: the largest centered box of the nearest allowed aspect; for square images that is the whole image
    none = np.logical_not(fits.any(1))
    if none.any():
        bounded = (width / height) * np.ones_like(w)
        bounded = bounded.clip(aspects.min(1), aspects.max(1))
        w = np.where(none, (height * bounded).round().clip(1, width), w)
        h = np.where(none, (width / bounded).round().clip(1, height), h)
        positions = np.where(none[:, None], np.float32(0.5), positions)
    top, left = (np.floor(positions[:, i] * (side - x + 1)) for i, (side, x) in enumerate(((height, h), (width, w))))
    return torch.from_numpy(np.stack([top, left, h, w], 1))


def weights(start: Tensor, length: Tensor, pixels: int, size: int, flip: Tensor | None = None) -> Tensor:
    """Resampling of one axis: (B, size, pixels), how much each input pixel counts in each output pixel; rows sum to 1.

    Bilinear; where the box shrinks, the triangle is as wide as an output pixel, as in Pillow and in torchvision with
    antialias=True. Pixels outside the box do not count.

    Args:
        start, length: the box along this axis, (B,), in pixels.
        pixels: of the image along this axis.
        size: of the output.
        flip: (B,) bool.
    """
    scale = (length / size).unsqueeze(1)
    at = (torch.arange(size, device=start.device) + 0.5) * scale
    if flip is not None:
        at = torch.where(flip.unsqueeze(1), length.unsqueeze(1) - at, at)
    center = (start.unsqueeze(1) + at - 0.5).unsqueeze(2)  # (B, size, 1)
    pixel = torch.arange(pixels, device=start.device, dtype=start.dtype)
    if pixels <= size:  # no box can shrink: two neighbors, whose weights sum to 1, or the border's pixel alone
        first, last = start.view(-1, 1, 1), (start + length - 1).view(-1, 1, 1)
        return (pixel - center.clamp(first, last)).abs_().neg_().add_(1).clamp_(min=0)
    table = (pixel - center).abs_().div_(-scale.clamp(min=1).unsqueeze(2)).add_(1).clamp_(min=0)
    outside = (pixel < start.unsqueeze(1)) | (pixel >= (start + length).unsqueeze(1))
    table.masked_fill_(outside.unsqueeze(1), 0)
    return table.div_(table.sum(2, keepdim=True))


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for every channel: (B, C, H, W), (B, S, H), (B, T, W) -> (B, C, S, T)."""
    channels, _, width = images.shape[1:]
    lines = images.transpose(1, 2).flatten(2)  # (B, H, C*W): one product for all channels; no copy after by_lines
    made = torch.bmm(torch.bmm(rows, lines).view(len(images), -1, width), columns.mT)  # (B, S*C, T)
    return made.unflatten(1, (-1, channels)).transpose(1, 2).contiguous()


def by_lines(images: Tensor) -> Tensor:
    """The same images, float in [0, 1], line by line in memory, as resample reads them; uint8 is divided by 255."""
    lines = images.transpose(1, 2).float().contiguous()
    return (lines.div_(255) if images.dtype == torch.uint8 else lines).transpose(1, 2)


def crop_resize(images: Tensor, box: Tensor, flip: Tensor, size: Size) -> Tensor:
    """images (B, C, H, W) float, box (B, 4), flip (B,) bool -> (B, C, *size), bilinear, antialiased."""
    top, left, height, width = box.to(images).unbind(1)
    tall, wide = height_width(size)
    rows = weights(top, height, images.shape[2], tall)
    return resample(images, rows, weights(left, width, images.shape[3], wide, flip))


def interpolate(images: Tensor, box: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """crop_resize of one image (1, C, H, W) on the CPU, by torch's own kernel, which reads no pixel that counts 0."""
    top, left, height, width = box[0].int().tolist()
    inside = images[:, :, top : top + height, left : left + width]
    made = F.interpolate(inside, size=size, mode="bilinear", antialias=True)
    return made.flip(3) if bool(flip) else made


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn counter-clockwise about the center, bilinear, black outside. images (B, C, H, W), degrees (B,)."""
    cos, sin, zero = torch.cos(degrees.deg2rad()), torch.sin(degrees.deg2rad()), torch.zeros_like(degrees)
    tall = images.shape[2] / images.shape[3]  # the grid measures both axes from -1 to 1
    turn = torch.stack([cos, -sin * tall, zero, sin / tall, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def erase(images: Tensor, position: Tensor, side: Tensor) -> Tensor:
    """Squares set to 0 (DeVries, Taylor 2017, cutout, arXiv:1708.04552), cut off at the border.

    Args:
        images: (B, C, H, W), normalized, so that 0 is the mean color.
        position: (B, 2) in [0, 1), row and column of the square's center.
        side: (B,), fraction of the shorter of H and W; 0 erases nothing.
    """
    side = (side * min(images.shape[2:])).round().unsqueeze(1)

    def inside(axis: int) -> Tensor:
        pixels = images.shape[2 + axis]
        first = (position[:, axis : axis + 1] * pixels).floor() - (side / 2).floor()  # (B, 1)
        pixel = torch.arange(pixels, device=images.device)
        return (pixel >= first) & (pixel < first + side)  # (B, pixels)

    return images.masked_fill((inside(0)[:, :, None] & inside(1)[:, None, :]).unsqueeze(1), 0)
