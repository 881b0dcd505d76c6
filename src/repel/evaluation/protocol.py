"""The protocol, one for every method: fit and choose on training and validation samples, then measure the test split.

An evaluator never sees test samples or labels while it fits: `fit` gets the two other splits and returns what scores
the test split, which is encoded after that. tests/evaluation/test_protocol.py checks all of conf/evaluators.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from repel.evaluation.feature_files import FeatureFiles, can_measure, encode_stored
from repel.evaluation.features import subset
from repel.evaluation.measurement import Array, Measurement, ReportRow, Score, accuracy
from repel.evaluation.stored_features import Features

if TYPE_CHECKING:
    from repel.data.samples import CompleteSplits, Samples
    from repel.evaluation.modality import Plot
    from repel.evaluation.top_items import Scorer

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
    "measure",
]

Encode = Callable[["Samples"], tuple[Tensor, Tensor]]  # features (M, F) and the places (M,) of samples that were read
OnBegin = Callable[[int, str], None]  # number of the stage of a row, and its name
OnStage = Callable[[int, int, str], None]  # stages done, all stages, the one that begins
OnRow = Callable[[ReportRow, "Part", "Part", "Part"], None]  # a row with its train, val and test split


class Part(NamedTuple):
    """A split: features x (N, F), labels y (N,) in 0 .. C - 1, and the samples they belong to, in the same order.

    x may be a sparse COO tensor, see sparse.py, or StoredFeatures, see stored_features.py, for evaluators that take it.
    """

    x: Features
    y: Tensor
    samples: "Samples"

    def known(self) -> "Part":
        """The part whose labels are known."""
        if bool((keep := self.y >= 0).all()):
            return self
        x = self.x.index_select(0, keep.nonzero().squeeze(1))  # sparse features know no other index
        return Part(x, self.y[keep], self.samples[keep.cpu()])


class Network(NamedTuple):
    """What computes the features of a row.

    encode: samples -> features (M, F) and the places (M,) of the samples that could be read.
    encoder: the module, which evaluators leave unchanged; None for raw pixels and the like.
    scorer: what ranks items for users without features, of a baseline; it has no `encode` then. settings: its own.
    files: where features go that do not fit into memory; None: all fit.
    """

    encode: Encode
    encoder: nn.Module | None
    normalize: Callable[[Tensor], Tensor]
    device: torch.device
    scorer: "Scorer | None" = None
    settings: Mapping[str, Any] = {}
    files: FeatureFiles | None = None


class Evaluator:
    """Measures features. A new one overrides fit; its options come from its file in conf/evaluators."""

    task_metrics: tuple[str, ...] = ()  # keys of its scores that are also measured on further columns of labels
    needs_encoder = False  # True: skipped for rows without an encoder, such as raw pixels
    needs_labels = True  # False: also measured where the data has no labels, on parts without features
    takes_sparse = False  # False: skipped for rows whose features are sparse tensors, see sparse.py
    takes_stored = False  # False: left out where features do not fit into memory, see stored_features.py
    takes_scorers = False  # False: skipped for rows that have a scorer in place of features

    def __init_subclass__(cls) -> None:
        if "fit" in vars(cls) and "fit_tasks" not in vars(cls):  # an inherited fit_tasks would not call the new fit
            cls.fit_tasks = Evaluator.fit_tasks  # type: ignore[method-assign]
            cls.takes_sparse = vars(cls).get("takes_sparse", False)
            cls.takes_stored = vars(cls).get("takes_stored", False)

    def fit(self, train: Part, val: Part, network: Network) -> "Fitted":
        """Learn and choose everything from these two splits alone."""
        raise NotImplementedError

    def fit_tasks(self, tasks: Mapping[str, tuple[Part, Part]], network: Network) -> dict[str, "Fitted"]:
        """fit for each labeling: task -> training and validation split. Overridden where they share work.

        Tasks that label the same samples have the same tensor x.
        """
        return {task: self.fit(*parts, network) for task, parts in tasks.items()}

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
    on_stage: OnStage = lambda done, total, what: None,
    labelled: bool = True,
) -> list[Measurement]:
    """Measure every row by every evaluator, on every task.

    Args:
        bank: at most so many training samples are used, evenly spaced; None: all.
        seed: of the run, recorded. What evaluators draw has seeds of their own.
        on_row: called with each row and its splits after the row is measured, to draw figures.
        on_stage: called before each stage with how many are done, of how many, and what comes now.
        labelled: whether the splits have labels; without, the evaluators must need none.
    """
    measurements: list[Measurement] = []
    stages, measured, of = len(evaluators) + 2, None, None
    for number, row in enumerate(rows):

        def begin(stage: int, name: str, row=row, done=number * stages) -> None:
            on_stage(done + stage, len(rows) * stages, f"{row.label}, {row.layer}: {name}")

        if measured is None or row.same is None or row.same != of:
            measured = None  # frees the features of the row before
            if labelled:
                measured = _measure_network(row.make_network(), evaluators, data, bank, begin)
            else:
                measured = _measure_without_labels(row.make_network, evaluators, data, begin)
        of = row.same
        measurements += [Measurement.of(row, task, name, score, seed, *n) for task, name, score, n in measured.scores]
        if on_row is not None:
            on_row(row, *measured.parts)
    return measurements


class _Measured(NamedTuple):
    """(task, evaluator, score, sizes of the splits) of one network, and its training, validation and test split."""

    scores: list[tuple[str, str, Score, list[int]]]
    parts: tuple[Part, Part, Part]


def _measure_network(
    network: Network, evaluators: Mapping[str, Evaluator], data: EvaluationData, bank: int | None, begin: OnBegin
) -> _Measured:
    begin(0, "encoding")
    train = _encoded_part(subset(data.splits.train.labelled, bank), network)
    val = _encoded_part(data.splits.val.labelled, network)
    further = _further_tasks(data, train, val)
    fitted: dict[tuple[str, str], Fitted] = {}
    for stage, (name, evaluator) in enumerate(evaluators.items(), 1):
        if _measures(evaluator, network, train) and can_measure(name, evaluator.takes_stored, [train.x, val.x]):
            begin(stage, name)
            tasks = {"class": (train, val)} | (further if evaluator.task_metrics else {})
            fitted |= {(task, name): one for task, one in evaluator.fit_tasks(tasks, network).items()}
    begin(len(evaluators) + 1, "test split")
    test = _encoded_part(data.splits.test.labelled, network)  # not before everything is chosen
    labels = {"class": test.y} | _columns(data, test)
    scores = []
    for task, parts in ({"class": (train, val)} | further).items():
        queries = test._replace(y=labels[task]).known()
        if not len(queries.y):
            continue  # no test sample is labelled for this task
        sizes = [len(part.y) for part in (*parts, queries)]
        for name, evaluator in evaluators.items():
            if (one := fitted.get((task, name))) is not None and can_measure(name, evaluator.takes_stored, [queries.x]):
                own = task == "class"
                scores += [(task, name, score, sizes) for score in [*one.score(queries), *one.chosen]
                           if own or score.key in evaluator.task_metrics]  # fmt: skip
    return _Measured(scores, (train, val, test))


def _measure_without_labels(
    make_network: Callable[[], Network], evaluators: Mapping[str, Evaluator], data: EvaluationData, begin: OnBegin
) -> _Measured:
    train, val, test = (
        Part(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), samples)
        for samples in (data.splits.train, data.splits.val, data.splits.test)
    )
    begin(0, "preparing")
    network, fitted = make_network(), {}
    for stage, (name, evaluator) in enumerate(evaluators.items(), 1):
        if _measures(evaluator, network, train):
            begin(stage, name)
            fitted[name] = evaluator.fit(train, val, network)
    begin(len(evaluators) + 1, "test split")
    sizes = [len(part.samples) for part in (train, val, test)]
    scores = [("class", name, score, sizes) for name, f in fitted.items() for score in [*f.score(test), *f.chosen]]
    return _Measured(scores, (train, val, test))


def _measures(evaluator: Evaluator, network: Network, train: Part) -> bool:
    return (
        (network.encoder is not None or not evaluator.needs_encoder)
        and (network.scorer is None or evaluator.takes_scorers)
        and (evaluator.takes_sparse or not train.x.is_sparse)
    )


def _encoded_part(samples: "Samples", network: Network) -> Part:
    x, places = encode_stored(samples, network.encode, network.files)
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
