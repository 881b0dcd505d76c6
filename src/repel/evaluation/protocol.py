"""The protocol, one for every method: fit and choose on training and validation samples, then measure the test split.

An evaluator never sees test samples or labels while it fits: `fit` gets the two other splits and returns what scores
the test split, which is encoded after that. tests/evaluation/test_protocol.py checks all of conf/evaluators.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from repel.evaluation.features import subset

if TYPE_CHECKING:
    from repel.data.samples import Samples, Splits
    from repel.evaluation.modality import Plot

__all__ = [
    "Evaluator",
    "Fitted",
    "Measurement",
    "Network",
    "Part",
    "ReportRow",
    "Score",
    "accuracy",
    "class_name",
    "measure",
]

Encode = Callable[["Samples"], tuple[Tensor, Tensor]]  # features (M, F) and the places (M,) of samples that were read
OnRow = Callable[["ReportRow", "Part", "Part", "Part"], None]  # a row with its train, val and test split


class Part(NamedTuple):
    """A split: features x (N, F), labels y (N,) in 0 .. C - 1, and the samples they belong to, in the same order."""

    x: Tensor
    y: Tensor
    samples: "Samples"

    def known(self) -> "Part":
        """The part whose labels are known."""
        if bool((keep := self.y >= 0).all()):
            return self
        return Part(self.x[keep], self.y[keep], self.samples[keep.cpu()])


class Score(NamedTuple):
    """One metric value: key, label for people, value, settings and split.

    settings: how it was measured; `ci95` or `std` among them is its uncertainty.
    split: "test", or "val" for the value that a choice was made by.
    higher_is_better: whether a table marks the highest value, the lowest (False), or none (None).
    """

    key: str
    label: str
    value: float
    settings: dict[str, Any]
    split: str = "test"
    higher_is_better: bool | None = True


class Network(NamedTuple):
    """What computes the features of a row.

    encode: samples -> features (M, F) and the places (M,) of the samples that could be read.
    encoder: the module, which evaluators leave unchanged; None for raw pixels and the like.
    """

    encode: Encode
    encoder: nn.Module | None
    normalize: Callable[[Tensor], Tensor]
    device: torch.device


class ReportRow(NamedTuple):
    """Features to measure: those of a checkpoint, or a baseline's.

    source: a checkpoint: "last", "best", or "checkpoint" for a file by itself; a baseline: "raw", "untrained", ...
    label: for people.
    layer: "h", "z", or the kind of a baseline's features, such as "pixels".
    make_network: called when the row's turn comes, so that one network at a time is in memory.
    epoch: epochs of training, or None for a baseline.
    headline: whether the run is compared by this checkpoint, whose metrics are called test/x.
    """

    source: str
    label: str
    layer: str
    make_network: Callable[[], Network]
    epoch: int | None = None
    headline: bool = False

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


class Evaluator:
    """Measures features. A new one overrides fit; its options come from its file in conf/evaluators."""

    task_metrics: tuple[str, ...] = ()  # keys of its scores that are also measured on further columns of labels
    needs_encoder = False  # True: skipped for rows without an encoder, such as raw pixels

    def fit(self, train: Part, val: Part, network: Network) -> "Fitted":
        """Learn and choose everything from these two splits alone."""
        raise NotImplementedError

    def plot(self, measurements: Sequence[Measurement]) -> "Plot | None":
        """A figure of its own measurements for the report; None: the table is enough."""
        return None


class Fitted(NamedTuple):
    """score(test) -> scores; chosen: validation scores of what was chosen."""

    score: Callable[[Part], list[Score]]
    chosen: Sequence[Score] = ()


class EvaluationData(Protocol):
    """What measure needs of a datamodule: labelled splits, and further columns of labels."""

    splits: "Splits"

    def columns(self, samples: "Samples") -> dict[str, Tensor]:
        """Task -> labels (N,) of these samples, -1 where unknown."""
        ...


def measure(
    rows: Sequence[ReportRow],
    evaluators: Mapping[str, Evaluator],
    data: EvaluationData,
    bank: int | None,
    seed: int,
    on_row: OnRow | None = None,
) -> list[Measurement]:
    """Measure every row by every evaluator, on every task.

    Args:
        bank: at most so many training samples are used, evenly spaced; None: all.
        seed: of the run, recorded. What evaluators draw has seeds of their own.
        on_row: called with each row and its splits after the row is measured, to draw figures.
    """
    measurements: list[Measurement] = []
    for row in rows:
        network = row.make_network()
        train = _encoded_part(subset(data.splits.train.labelled, bank), network)
        val = _encoded_part(data.splits.val.labelled, network)
        tasks = {"class": (train, val)} | _further_tasks(data, train, val)
        fitted = {
            (task, name): evaluator.fit(*parts, network)
            for task, parts in tasks.items()
            for name, evaluator in evaluators.items()
            if (task == "class" or evaluator.task_metrics)
            and (network.encoder is not None or not evaluator.needs_encoder)
        }
        test = _encoded_part(data.splits.test.labelled, network)  # not before everything is chosen
        labels = {"class": test.y} | _columns(data, test)
        for (task, name), one in fitted.items():
            queries = test._replace(y=labels[task]).known()
            if not len(queries.y):
                continue  # no test sample is labelled for this task
            kept = None if task == "class" else evaluators[name].task_metrics
            sizes = [len(part.y) for part in (*tasks[task], queries)]
            for score in (s for s in [*one.score(queries), *one.chosen] if kept is None or s.key in kept):
                measurements.append(_measurement(row, task, name, score, seed, *sizes))
        if on_row is not None:
            on_row(row, train, val, test)
    return measurements


def _measurement(
    row: ReportRow, task: str, evaluator: str, score: Score, seed: int, train: int, val: int, test: int
) -> Measurement:
    fitted_on, scored_on = (train + val, test) if score.split == "test" else (train, val)
    fitted_on, scored_on = score.settings.get("labels", fitted_on), score.settings.get("images", scored_on)
    return Measurement(row, task, evaluator, score, seed, fitted_on, scored_on)


def _encoded_part(samples: "Samples", network: Network) -> Part:
    x, places = network.encode(samples)
    kept = samples if len(places) == len(samples) else samples[places.cpu()]
    return Part(x, kept.labels.to(x.device), kept)


def _columns(data: EvaluationData, part: Part) -> dict[str, Tensor]:
    return {name: labels.to(part.x.device) for name, labels in data.columns(part.samples).items()}


def _further_tasks(data: EvaluationData, train: Part, val: Part) -> dict[str, tuple[Part, Part]]:
    """Name of a further task -> its training and validation split. A task without two labels is left out."""
    labels = _columns(data, train), _columns(data, val)
    parts = {name: tuple(p._replace(y=c[name]).known() for p, c in zip((train, val), labels, strict=True))
             for name in labels[0]}  # fmt: skip
    return {name: pair for name, pair in parts.items() if len(pair[0].y.unique()) > 1 and len(pair[1].y)}


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Share of equal labels, in [0, 1]: predicted (N,) and truth (N,), N >= 1.

    >>> accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    0.666667
    """
    classes = int(max(predicted.max(), truth.max())) + 1
    top1 = multiclass_accuracy(predicted, truth, num_classes=max(2, classes), average="micro")
    return round(float(top1), 6)  # it comes in float32


def class_name(classes: Sequence[str], label: int) -> str:
    """A label's class, or the number where the classes have no names."""
    return classes[label] if 0 <= label < len(classes) else str(label)
