"""Robustness: the same features when images are corrupted."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as vision
from torch import Tensor

from repel.base import seeding
from repel.evaluation.features import subset
from repel.evaluation.knn import knn_predict
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score, accuracy
from repel.images.memory import Images

SMALL = 64  # pixels a side, up to which the strengths are those for CIFAR


def noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return x + strength * torch.randn(x.shape, generator=generator)


def blur(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    radius = max(1, round(4 * sigma))
    return vision.gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)


def brightness(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return x + strength


def contrast(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def pixelate(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    height, width = x.shape[-2:]
    small = F.interpolate(x, (max(1, int(height * factor)), max(1, int(width * factor))), mode="area")
    return F.interpolate(small, (height, width), mode="nearest")


# name -> what it does, five strengths for images up to SMALL pixels (CIFAR-10-C) and for larger (ImageNet-C)
CORRUPTIONS: dict[str, tuple[Callable[..., Tensor], Sequence[float], Sequence[float]]] = {
    "noise": (noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
}


def corrupt(pixels: Tensor, name: str, strength: int, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) uint8 -> the same, corrupted.

    Hendrycks, Dietterich 2019, arXiv:1903.12261, appendix; the strengths are their code's. Brightness there is of HSV's
    value, here of all channels, which also suits gray images.

    Args:
        strength: 1 to 5.
    """
    corruption, small, large = CORRUPTIONS[name]
    amount = (small if max(pixels.shape[-2:]) <= SMALL else large)[strength - 1]
    return corruption(pixels.float() / 255, amount, generator).clamp(0, 1).mul(255).round().byte()


class Corruptions(Evaluator):
    """kNN accuracy on corrupted test images, five strengths each; the bank stays clean.

    Args:
        k, temperature: of the vote.
        images: at most so many test images, evenly spaced.
        seed: of the noise.
    """

    def __init__(self, k: int, temperature: float, images: int, seed: int):
        if images < 1 or k < 1 or not temperature > 0:
            raise ValueError(
                "evaluators.corruptions needs images >= 1, k >= 1 and temperature > 0, "
                f"got {images}, {k} and {temperature}"
            )
        self.k, self.temperature, self.images, self.seed = k, temperature, images, seed

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        bank, labels = torch.cat([train.x, val.x]), torch.cat([train.y, val.y])

        def top1(images: Images) -> float:
            x, places = network.encode(images)
            truth = images.labels[places.cpu()].to(x.device)
            return accuracy(knn_predict(bank, labels, x, self.k, self.temperature), truth)

        def score(test: Part) -> list[Score]:
            few = subset(test.images, self.images)
            pixels = torch.cat([p for p, _ in few.plain(list(torch.arange(len(few)).split(500)))])
            settings = {"k": self.k, "temperature": self.temperature, "normalize": "l2", "images": len(few),
                        "seed": self.seed}  # fmt: skip
            scores, means = (
                [
                    Score(
                        "uncorrupted_top1",
                        "kNN top-1, the same uncorrupted",
                        top1(Images(pixels, few.labels)),
                        settings,
                    )
                ],
                [],
            )
            for number, name in enumerate(CORRUPTIONS):
                values = []
                for strength in range(1, 6):
                    draws = seeding.generator(self.seed, seeding.CORRUPTION, number, strength)
                    values.append(top1(Images(corrupt(pixels, name, strength, draws), few.labels)))
                means.append(sum(values) / 5)
                scores.append(
                    Score(f"corrupted_{name}_top1", f"kNN top-1, {name}", means[-1], settings | {"by_strength": values})
                )
            return [
                *scores,
                Score("corrupted_top1", "kNN top-1, mean of corruptions", sum(means) / len(means), settings),
            ]

        return Fitted(score)
