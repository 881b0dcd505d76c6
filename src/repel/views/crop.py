"""Random resized crop and flip, batched: one box per image, one resampling for both."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ATTEMPTS = 10  # torchvision tries ten boxes before it falls back to the centre


def draw_boxes(n: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator) -> dict:
    """What a box needs before the image's size is known: ten (area, aspect) attempts and a position, each (n, ...)."""
    area = torch.empty(n, ATTEMPTS).uniform_(*scale, generator=generator)
    aspect = torch.empty(n, ATTEMPTS).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator).exp()
    return {"area": area, "aspect": aspect, "position": torch.rand(n, 2, generator=generator)}


def boxes(area: Tensor, aspect: Tensor, position: Tensor, height: int, width: int) -> Tensor:
    """(n, 4) integer boxes (top, left, height, width) as torchvision's RandomResizedCrop.get_params makes them."""
    w = (height * width * area * aspect).sqrt().round()
    h = (height * width * area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.float().argmax(1, keepdim=True)
    w, h = w.gather(1, first).squeeze(1), h.gather(1, first).squeeze(1)
    # none fits: the largest centred box of the nearest allowed aspect; for square images that is the whole image
    low, high = aspect.amin(1), aspect.amax(1)
    bounded = torch.full_like(low, width / height).clamp(low, high)
    none = ~fits.any(1)
    w = torch.where(none, (height * bounded).round().clamp(max=width), w)
    h = torch.where(none, (width / bounded).round().clamp(max=height), h)
    at = torch.where(none.unsqueeze(1), torch.full_like(position, 0.5), position)
    top, left = (at[:, 0] * (height - h + 1)).floor(), (at[:, 1] * (width - w + 1)).floor()
    return torch.stack([top, left, h, w], 1)


def crop_resize(images: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """images (B, C, H, W) float, box (B, 4), flip (B,) bool -> (B, C, size, size), bilinear."""
    height, width = images.shape[-2:]
    top, left, h, w = box.to(images).unbind(1)
    sign = torch.where(flip, -1.0, 1.0).to(images)
    zero = torch.zeros_like(w)
    # output coordinates in [-1, 1] -> the box, in the input's [-1, 1]
    affine = torch.stack(
        [sign * w / width, zero, (2 * left + w) / width - 1, zero, h / height, (2 * top + h) / height - 1], 1
    ).view(-1, 2, 3)
    grid = F.affine_grid(affine, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
