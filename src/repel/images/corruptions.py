"""Robustness: accuracy of frozen features on corrupted images."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as vision
from torch import Tensor

from repel.base import seeding
from repel.evaluation.coverage import ceiling
from repel.evaluation.features import BATCH, subset
from repel.evaluation.knn import knn_predict
from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Evaluator, Fitted, Measurement, Network, Part, Score, accuracy
from repel.images.memory import Images

__all__ = ["CORRUPTIONS", "Corruptions", "corrupt"]

SMALL = 64  # pixels a side, up to which the strengths are those for CIFAR
STRENGTHS = range(1, 6)


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
            assert images.labels is not None
            truth = images.labels[places.cpu()].to(x.device)
            return accuracy(knn_predict(bank, labels, x, self.k, self.temperature), truth)

        def score(test: Part) -> list[Score]:
            few = subset(test.samples, self.images)
            assert few.labels is not None
            pixels = torch.cat([batch for batch, _ in few.plain(list(torch.arange(len(few)).split(BATCH)))])
            settings = {"k": self.k, "temperature": self.temperature, "normalize": "l2", "images": len(few),
                        "seed": self.seed} | ceiling(labels.cpu(), few.labels)  # fmt: skip
            clean = top1(Images(pixels, few.labels))
            scores, means = [Score("uncorrupted_top1", "kNN top-1, the same uncorrupted", clean, settings)], []
            for number, name in enumerate(CORRUPTIONS):
                values = []
                for strength in STRENGTHS:
                    draws = seeding.generator(self.seed, seeding.CORRUPTION, number, strength)
                    values.append(top1(Images(corrupt(pixels, name, strength, draws), few.labels)))
                means.append(sum(values) / len(values))
                own = settings | {"by_strength": values}
                scores.append(Score(f"corrupted_{name}_top1", f"kNN top-1, {name}", means[-1], own))
            mean = sum(means) / len(means)
            return [*scores, Score("corrupted_top1", "kNN top-1, mean of corruptions", mean, settings)]

        return Fitted(score)

    def plot(self, measurements: Sequence[Measurement]) -> Plot | None:
        """Accuracy against strength, a panel for each corruption, a line for each row of the report."""
        from matplotlib.figure import Figure

        panels: dict[str, dict[str, list[float]]] = {}
        for m in measurements:
            if "by_strength" in m.score.settings:
                name, row = m.score.label.rsplit(", ", 1)[-1], f"{m.row.label}, {m.row.layer}"
                panels.setdefault(name, {})[row] = m.score.settings["by_strength"]
        if not panels:
            return None
        figure = Figure(figsize=(2.6 * len(panels), 3.2), layout="constrained")
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (name, lines) in zip(every, panels.items(), strict=True):
            for row, values in lines.items():
                axes.plot(STRENGTHS, values, marker="o", markersize=3, label=row)
            axes.set(title=name, xlabel="strength", xticks=STRENGTHS)
        every[0].set(ylabel="kNN top-1")
        handles = every[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        return Plot("corruptions", "Corrupted test images", figure)
