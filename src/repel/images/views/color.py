"""Colour operations on batches: images (B, C, H, W) float in [0, 1], factors (B,), one per image.

Each equals torchvision's functional form for the same factor, clamping included. With one channel an image is its own
grayscale, so saturation and hue have nothing to change and return it as it is.
"""

import torch
from torch import Tensor

__all__ = ["brightness", "contrast", "gamma", "grayscale", "hue", "jitter", "saturation", "solarize", "to_gray"]

LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # their numbers in an order


def column(factor: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to act on images."""
    return factor.view(-1, 1, 1, 1)


def grayscale(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    r, g, b = images.split(1, dim=1)
    return (r * LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def _mean_gray(images: Tensor) -> Tensor:
    """(B, 1, 1, 1): the mean of the grayscale image."""
    return grayscale(images.mean((2, 3), keepdim=True))


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor 0 gives other, 1 the image, above 1 moves away from other."""
    return torch.lerp(other, images, column(factor)).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * column(factor)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    factor = column(factor)  # not by blend: lerp is slow where `other` is a number per image
    return (images * factor).add_((1 - factor) * _mean_gray(images)).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, grayscale(images), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by shift, in turns in [-0.5, 0.5], through HSV."""
    if images.shape[1] == 1:
        return images
    r, g, b = images.split(1, dim=1)
    high = torch.maximum(torch.maximum(r, g), b)
    low = torch.minimum(torch.minimum(r, g), b)
    spread = high - low
    # 1 where red, or green, is not the highest, else 0: as floats, which CPUs select by much faster than by booleans
    not_red, not_green = ((high - channel).mul_(1e30).clamp_(max=1) for channel in (r, g))
    # the sector, in sixths of a turn; a gray pixel's is that of red
    sector = torch.lerp(g - b, torch.lerp(b - r, r - g, not_green), not_red).div_(spread.clamp(min=1e-12))
    sector.add_(not_red.mul_(2).mul_(not_green.add_(1))).add_(column(6 * shift))
    sector.sub_((sector / 6).floor_(), alpha=6)
    # HSV -> RGB: red is low + spread * clamp(|sector - 3| - 1, 0, 1), green and blue clamp(2 - |sector - 2 or 4|, 0, 1)
    out, top = torch.empty_like(images), low + 2 * spread
    torch.addcmul(low - spread, spread, (sector - 3).abs_().clamp_(1, 2), out=out[:, 0:1])
    torch.addcmul(top, spread, (sector - 2).abs_().clamp_(1, 2), value=-1, out=out[:, 1:2])
    torch.addcmul(top, spread, sector.sub_(4).abs_().clamp_(1, 2), value=-1, out=out[:, 2:3])
    return out


OPERATIONS = (brightness, contrast, saturation, hue)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, one after the other, as torchvision's ColorJitter does.

    Args:
        images: (B, C, H, W) in [0, 1].
        factors: (B, 4) on the CPU; 1, 1, 1, 0 change nothing. An operation that no image asks for costs nothing.
        order: (B, 4) on the CPU, the operations' numbers. Images of different order are handled together.
    """
    asked = (factors != factors.new_tensor([1.0, 1.0, 1.0, 0.0])).any(0).tolist()
    if images.shape[1] == 1:
        asked[SATURATION] = asked[HUE] = False
    there = factors.to(images, non_blocking=True)
    for now in order.unbind(1):
        first = int(now[0])
        if bool((now == first).all()):
            images = OPERATIONS[first](images, there[:, first]) if asked[first] else images
        else:
            images = _jitter_one_by_one(images, factors, now, asked)
    return images


def _jitter_one_by_one(images: Tensor, factors: Tensor, now: Tensor, asked: list[bool]) -> Tensor:
    """A different operation for each image: three of them blend it with something, and hue is done apart.

    Args:
        factors, now: (B, 4) and (B,), the operations' factors and the operation's number, on the CPU.
        asked: which operations any image asks for.
    """
    chosen = factors.gather(1, now.unsqueeze(1)).squeeze(1)
    neutral = (now == HUE) | ~torch.tensor(asked)[now]
    factor = torch.where(neutral, 1.0, chosen)
    rest = ((1 - factor) * (now == kind) for kind in (CONTRAST, SATURATION))
    toward_mean, toward_gray = (column(share.to(images, non_blocking=True)) for share in rest)
    gray = grayscale(images)
    other = gray * toward_gray + gray.mean((2, 3), keepdim=True) * toward_mean
    images = (images * column(factor.to(images, non_blocking=True))).add_(other).clamp_(0, 1)
    if asked[HUE]:
        turned = (now == HUE).nonzero().squeeze(1)  # of a tensor on the CPU: nothing waits for the device
        index = turned.to(images.device, non_blocking=True)
        shift = chosen[turned].to(images, non_blocking=True)
        images.index_copy_(0, index, hue(images[index], shift))
    return images


def gamma(images: Tensor, exponent: Tensor) -> Tensor:
    return images.clamp(0, 1) ** column(exponent)


def to_gray(images: Tensor, chosen: Tensor) -> Tensor:
    """Without color where chosen, (B,) bool."""
    return images if images.shape[1] == 1 else torch.lerp(images, grayscale(images), column(chosen.to(images)))


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is at least as bright as the threshold; above 1 nothing is."""
    return torch.where(images >= column(threshold), 1 - images, images)
