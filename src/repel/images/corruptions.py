"""Robustness: accuracy of frozen features on corrupted images."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as vision
from torch import Tensor

from repel.data.samples import Samples
from repel.evaluation.corrupted import Corrupt, CorruptedKNN
from repel.evaluation.features import BATCH
from repel.images.memory import Images

__all__ = ["CORRUPTIONS", "Corruptions", "corrupt"]

SMALL = 64  # pixels a side, up to which the strengths are those for CIFAR


def _noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return x + strength * torch.randn(x.shape, generator=generator)


def _blur(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    radius = max(1, round(4 * sigma))
    return vision.gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)


def _brightness(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return x + strength


def _contrast(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def _pixelate(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    height, width = x.shape[-2:]
    small = F.interpolate(x, (max(1, int(height * factor)), max(1, int(width * factor))), mode="area")
    return F.interpolate(small, (height, width), mode="nearest")


# name -> function, five strengths for images up to SMALL pixels (CIFAR-10-C), and five for larger ones (ImageNet-C)
CORRUPTIONS: dict[str, tuple[Callable[..., Tensor], Sequence[float], Sequence[float]]] = {
    "noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
}


def corrupt(pixels: Tensor, name: str, strength: int, generator: torch.Generator) -> Tensor:
    """Corrupted images: (N, C, H, W) uint8 -> (N, C, H, W) uint8.

    Hendrycks, Dietterich 2019, arXiv:1903.12261, appendix; the strengths are their code's. Brightness there is of HSV's
    value, here of all channels, which also suits gray images.

    Args:
        strength: 1 to 5.
    """
    corruption, small, large = CORRUPTIONS[name]
    amount = (small if max(pixels.shape[-2:]) <= SMALL else large)[strength - 1]
    return corruption(pixels.float() / 255, amount, generator).clamp(0, 1).mul(255).round().byte()


class Corruptions(CorruptedKNN):
    """kNN accuracy on corrupted test images, five strengths each; the bank stays clean.

    Args:
        k, temperature: of the vote.
        images: at most so many test images, evenly spaced.
        seed: of the noise.
    """

    corruptions = tuple(CORRUPTIONS)
    noun = counted = "images"

    def __init__(self, k: int, temperature: float, images: int, seed: int):
        if images < 1 or k < 1 or not temperature > 0:
            raise ValueError(
                "evaluators.corruptions needs images >= 1, k >= 1 and temperature > 0, "
                f"got {images}, {k} and {temperature}"
            )
        super().__init__(k, temperature, images, seed)

    def versions(self, samples: Samples) -> tuple[Samples, Corrupt]:
        pixels = torch.cat([batch for batch, _ in samples.plain(list(torch.arange(len(samples)).split(BATCH)))])

        def corrupted(name: str, strength: int, generator: torch.Generator) -> Samples:
            return Images(corrupt(pixels, name, strength, generator), samples.labels)

        return Images(pixels, samples.labels), corrupted
