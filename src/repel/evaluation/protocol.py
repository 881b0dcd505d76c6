"""The protocol, one for every method: fit and choose on training and validation samples, then measure the test split.

An evaluator never sees test samples or labels while it fits: `fit` gets the two other splits and returns what scores
the test split, which is encoded after that. tests/evaluation/test_protocol.py checks all of conf/evaluators.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from repel.evaluation.features import subset
from repel.evaluation.measurement import Measurement, ReportRow, Score

if TYPE_CHECKING:
    from repel.data.samples import CompleteSplits, Samples
    from repel.evaluation.modality import Plot

__all__ = [
    "Array",
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

Array = Tensor | np.ndarray  # what a user has: labels and features are taken as either
Encode = Callable[["Samples"], tuple[Tensor, Tensor]]  # features (M, F) and the places (M,) of samples that were read
OnRow = Callable[[ReportRow, "Part", "Part", "Part"], None]  # a row with its train, val and test split


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


class Network(NamedTuple):
    """What computes the features of a row.

    encode: samples -> features (M, F) and the places (M,) of the samples that could be read.
    encoder: the module, which evaluators leave unchanged; None for raw pixels and the like.
    """

    encode: Encode
    encoder: nn.Module | None
    normalize: Callable[[Tensor], Tensor]
    device: torch.device


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

    @property
    def splits(self) -> "CompleteSplits":
        """Training, validation and test samples."""
        ...

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
    assert kept.labels is not None, "measure() takes labelled samples"
    return Part(x, kept.labels.to(x.device), kept)


def _columns(data: EvaluationData, part: Part) -> dict[str, Tensor]:
    return {name: labels.to(part.x.device) for name, labels in data.columns(part.samples).items()}


def _further_tasks(data: EvaluationData, train: Part, val: Part) -> dict[str, tuple[Part, Part]]:
    """Name of a further task -> its training and validation split. A task without two labels is left out."""
    labels = _columns(data, train), _columns(data, val)
    parts = {name: (train._replace(y=labels[0][name]).known(), val._replace(y=labels[1][name]).known())
             for name in labels[0]}  # fmt: skip
    return {name: pair for name, pair in parts.items() if len(pair[0].y.unique()) > 1 and len(pair[1].y)}


def accuracy(predicted: Array, truth: Array) -> float:
    """Share of equal labels, in [0, 1]: predicted (N,) and truth (N,), tensors or arrays, N >= 1.

    >>> accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    0.666667
    """
    predicted, truth = torch.as_tensor(predicted), torch.as_tensor(truth)
    classes = int(max(predicted.max(), truth.max())) + 1
    top1 = multiclass_accuracy(predicted, truth, num_classes=max(2, classes), average="micro")
    return round(float(top1), 6)  # it comes in float32


def class_name(classes: Sequence[str], label: int) -> str:
    """A label's class, or the number where the classes have no names."""
    return classes[label] if 0 <= label < len(classes) else str(label)
