"""The protocol, one for every method: fit and choose on training and validation images, then look at the test images.

An evaluator never sees test images or labels while it fits: `fit` gets the two other splits and returns what scores the
test split, which is encoded after that. tests/test_protocol.py holds every evaluator in conf/evaluators to it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from repel.data.datamodule import PairData
from repel.data.samples import Samples
from repel.evaluation.features import subset


class Part(NamedTuple):
    """A split: features x (N, F), labels y (N,) in 0 .. C - 1, and the images they are of (of the same order)."""

    x: Tensor
    y: Tensor
    images: Samples

    def known(self) -> "Part":
        """Those whose label is known."""
        if bool((keep := self.y >= 0).all()):
            return self
        return Part(self.x[keep], self.y[keep], self.images[keep.cpu()])


class Score(NamedTuple):
    """A number by its name, and in words, with its settings; of the test split, or what validation said of a choice.

    settings: what it was measured with; `ci95` or `std` among them say how far it may be off.
    """

    name: str
    words: str
    value: float
    settings: dict[str, Any]
    split: str = "test"


class Network(NamedTuple):
    """Where a row's features come from.

    encode: images -> features (M, F) and the places (M,) of the images that could be read.
    encoder: the module, which evaluators leave as it is, or None for raw pixels.
    """

    encode: Callable[[Samples], tuple[Tensor, Tensor]]
    encoder: nn.Module | None
    normalize: Callable[[Tensor], Tensor]
    device: torch.device


class Evaluator:
    """Measures features. A new one overrides fit; its options come from its file in conf/evaluators."""

    of_tasks: tuple[str, ...] = ()  # which of its scores are also measured on further label columns
    of_encoder = False  # whether it needs an encoder, so that raw pixels have no such number

    def fit(self, train: Part, val: Part, network: Network) -> "Fitted":
        """Everything that is learned or chosen, from these two splits alone."""
        raise NotImplementedError


class Fitted(NamedTuple):
    """score(test) -> scores; chosen: what validation said of the choice."""

    score: Callable[[Part], list[Score]]
    chosen: Sequence[Score] = ()


class Row(NamedTuple):
    """One line of the table: features of a checkpoint, or a baseline.

    prefix: of its metrics' names, such as test/last_.
    words: for people.
    epoch: of the checkpoint, or None.
    layer: h, z or pixels.
    make: builds its network.
    """

    prefix: str
    words: str
    epoch: int | None
    layer: str
    make: Callable[[], Network]


def measure(
    rows: list[Row],
    evaluators: Mapping[str, Evaluator],
    data: PairData,
    bank: int | None,
    seed: int,
    look: Callable[[Row, Part, Part, Part], None] | None,
) -> list[dict[str, Any]]:
    """Records: one for each row, task, evaluator and number, with all settings it was measured with.

    Args:
        bank: at most so many training images are used, evenly spaced; None: all.
        look: is shown each row's train, val and test split after all is measured, to draw pictures; or None.
        seed: of the run, recorded. What evaluators draw has seeds of their own.

    Returns:
        Dicts with at least metric, value, split, row, layer, epoch, task, seed, settings, and numbers of images.
    """
    records = []
    splits = data.splits
    for row in rows:
        network = row.make()
        train, val = (part_of(images, network) for images in (subset(splits.train.labelled, bank), splits.val.labelled))
        tasks = {"class": (train, val)} | further(data, train, val)
        fitted = {
            (task, name): evaluator.fit(*parts, network)
            for task, parts in tasks.items()
            for name, evaluator in evaluators.items()
            if (task == "class" or evaluator.of_tasks) and (network.encoder is not None or not evaluator.of_encoder)
        }
        test = part_of(splits.test.labelled, network)  # not before everything is chosen
        labels = {"class": test.y} | columns(data, test)
        for (task, name), one in fitted.items():
            queries = test._replace(y=labels[task]).known()
            if not len(queries.y):
                continue  # nobody is labelled for this task
            kept = None if task == "class" else evaluators[name].of_tasks
            for score in (s for s in [*one.score(queries), *one.chosen] if kept is None or s.name in kept):
                fitted_on, scored_on = (len(p.y) for p in tasks[task])
                if score.split == "test":
                    fitted_on, scored_on = fitted_on + scored_on, len(queries.y)
                records.append(record(row, task, name, score, seed, fitted_on, scored_on))
        if look is not None:
            look(row, train, val, test)
    return records


def part_of(images: Samples, network: Network) -> Part:
    x, places = network.encode(images)
    kept = images if len(places) == len(images) else images[places.cpu()]
    return Part(x, kept.labels.to(x.device), kept)


def columns(data: PairData, part: Part) -> dict[str, Tensor]:
    return {name: labels.to(part.x.device) for name, labels in data.columns(part.images).items()}


def further(data: PairData, train: Part, val: Part) -> dict[str, tuple[Part, Part]]:
    """name of a further task -> its training and validation split. A task without two labels is left out."""
    labels = columns(data, train), columns(data, val)
    parts = {name: tuple(p._replace(y=c[name]).known() for p, c in zip((train, val), labels, strict=True))
             for name in labels[0]}  # fmt: skip
    return {name: pair for name, pair in parts.items() if len(pair[0].y.unique()) > 1 and len(pair[1].y)}


def record(row: Row, task: str, evaluator: str, score: Score, seed: int, train: int, test: int) -> dict[str, Any]:
    prefix = row.prefix if score.split == "test" else "val/" + row.prefix.removeprefix("test/").replace("/", "_")
    name = score.name if task == "class" else f"{task}_{score.name}"
    return {
        "metric": prefix + name, "value": score.value, "split": score.split, "row": row.words,
        "layer": row.layer, "epoch": row.epoch, "task": task, "evaluator": evaluator, "words": score.words,
        "settings": score.settings, "seed": seed, "fitted_on": score.settings.get("labels", train),
        "scored_on": score.settings.get("images", test),
    }  # fmt: skip


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Share of equal labels, in [0, 1]."""
    classes = int(max(predicted.max(), truth.max())) + 1
    top1 = multiclass_accuracy(predicted, truth, num_classes=max(2, classes), average="micro")
    return round(float(top1), 6)  # it comes in float32
