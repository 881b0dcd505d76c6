"""What an evaluation yields: scores of rows of features. Numbers stay numbers until they are printed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

if TYPE_CHECKING:
    from repel.evaluation.protocol import Network

__all__ = ["Array", "Measurement", "ReportRow", "Score", "accuracy"]

Array = Tensor | np.ndarray  # what a user has: labels and features are taken as either


class Score(NamedTuple):
    """One metric value: key, label for people, value, settings and split.

    settings: how it was measured; `ci95` or `std` among them is its uncertainty.
    split: "test", or "val" for the value that a choice was made by.
    higher_is_better: a table says where lower is better (False); None: neither is.
    """

    key: str
    label: str
    value: float
    settings: dict[str, Any]
    split: str = "test"
    higher_is_better: bool | None = True


class ReportRow(NamedTuple):
    """Features to measure: those of a checkpoint, or a baseline's.

    source: a checkpoint: "last", "best", or "checkpoint" for a file by itself; a baseline: "raw", "untrained", ...
    label: for people.
    layer: "h", "z", or the kind of a baseline's features, such as "pixels".
    make_network: called when the row's turn comes, so that one network at a time is in memory.
    epoch: epochs of training, or None for a baseline.
    headline: whether the run is compared by this checkpoint, whose metrics are called test/x.
    same: rows that follow one another with the same value here, not None, have the same features, measured once.
    """

    source: str
    label: str
    layer: str
    make_network: Callable[[], "Network"]
    epoch: int | None = None
    headline: bool = False
    same: str | None = None

    def metric_name(self, key: str, split: str = "test") -> str:
        """test/x of the headline, test/last_x of another checkpoint, baseline/raw_x; val/... of a choice."""
        baseline = self.epoch is None
        source = "" if self.headline else f"{self.source}_"
        layer = "z_" if self.layer == "z" else ""
        if split == "test":
            split = "baseline" if baseline else "test"
        elif baseline:
            source = f"baseline_{source}"
        return f"{split}/{source}{layer}{key}"


class Measurement(NamedTuple):
    """One number of a report and everything it depends on.

    task: "class", or the name of a further column of labels.
    seed: the run's.
    fitted_on, scored_on: numbers of samples.
    """

    row: ReportRow
    task: str
    evaluator: str
    score: Score
    seed: int
    fitted_on: int
    scored_on: int

    @classmethod
    def of(
        cls, row: ReportRow, task: str, evaluator: str, score: Score, seed: int, train: int, val: int, test: int
    ) -> "Measurement":
        """Given the sizes of the splits; the score's settings may say that it is of fewer samples."""
        fitted_on, scored_on = (train + val, test) if score.split == "test" else (train, val)
        fitted_on = score.settings.get("labels", fitted_on)
        scored_on = score.settings.get("images", score.settings.get("samples", scored_on))
        return cls(row, task, evaluator, score, seed, fitted_on, scored_on)

    @property
    def metric(self) -> str:
        """The name in metrics.json."""
        key = self.score.key if self.task == "class" else f"{self.task}_{self.score.key}"
        return self.row.metric_name(key, self.score.split)

    @property
    def label(self) -> str:
        """The name in tables."""
        return self.score.label if self.task == "class" else f"{self.task}: {self.score.label}"

    def record(self) -> dict[str, Any]:
        """The entry in evaluation.json."""
        return {
            "metric": self.metric, "value": self.score.value, "split": self.score.split, "row": self.row.label,
            "layer": self.row.layer, "epoch": self.row.epoch, "task": self.task, "evaluator": self.evaluator,
            "words": self.score.label, "settings": self.score.settings, "seed": self.seed,
            "fitted_on": self.fitted_on, "scored_on": self.scored_on,
        }  # fmt: skip


def accuracy(predicted: Array, truth: Array) -> float:
    """Share of equal labels, in [0, 1]: predicted (N,) and truth (N,), tensors or arrays, N >= 1.

    >>> accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    0.666667
    """
    predicted, truth = torch.as_tensor(predicted), torch.as_tensor(truth)
    classes = int(max(predicted.max(), truth.max())) + 1
    top1 = multiclass_accuracy(predicted, truth, num_classes=max(2, classes), average="micro")
    return round(float(top1), 6)  # it comes in float32
