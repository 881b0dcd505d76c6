"""Robustness: accuracy of frozen features on corrupted samples, whatever they are."""

from collections.abc import Callable, Sequence

import torch

from repel.base import seeding
from repel.data.samples import Samples
from repel.evaluation.coverage import ceiling
from repel.evaluation.features import subset
from repel.evaluation.knn import predict_on_all_ranks
from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Evaluator, Fitted, Measurement, Network, Part, Score, accuracy
from repel.evaluation.stored_features import join

__all__ = ["STRENGTHS", "Corrupt", "CorruptedKNN"]

STRENGTHS = range(1, 6)

Corrupt = Callable[[str, int, torch.Generator], Samples]  # name of the corruption, strength, draws


class CorruptedKNN(Evaluator):
    """kNN accuracy on corrupted test samples, five strengths each; the bank stays clean.

    A modality says which corruptions there are, and makes them.

    Args:
        k, temperature: of the vote.
        most: at most so many test samples, evenly spaced.
        seed: of the corruptions.
    """

    takes_sparse = takes_stored = True
    corruptions: tuple[str, ...]
    noun: str  # of the samples, the plural
    counted = "samples"  # how settings call the number of them

    def __init__(self, k: int, temperature: float, most: int, seed: int):
        self.k, self.temperature, self.most, self.seed = k, temperature, most, seed

    def versions(self, samples: Samples) -> tuple[Samples, Corrupt]:
        """The samples uncorrupted, and what corrupts them; both labeled."""
        raise NotImplementedError

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        bank, labels = join([train.x, val.x]), torch.cat([train.y, val.y])

        def top1(samples: Samples) -> float:
            x, places = network.encode(samples)
            assert samples.labels is not None
            truth = samples.labels[places.cpu()].to(x.device)
            return accuracy(predict_on_all_ranks(bank, labels, x, self.k, self.temperature), truth)

        def score(test: Part) -> list[Score]:
            few = subset(test.samples, self.most)
            assert few.labels is not None
            clean, corrupt = self.versions(few)
            settings = {"k": self.k, "temperature": self.temperature, "normalize": "l2", self.counted: len(few),
                        "seed": self.seed} | ceiling(labels.cpu(), few.labels)  # fmt: skip
            scores, means = [Score("uncorrupted_top1", "kNN top-1, the same uncorrupted", top1(clean), settings)], []
            for number, name in enumerate(self.corruptions):
                values = []
                for strength in STRENGTHS:
                    draws = seeding.generator(self.seed, seeding.CORRUPTION, number, strength)
                    values.append(top1(corrupt(name, strength, draws)))
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
        return Plot("corruptions", f"Corrupted test {self.noun}", figure)
