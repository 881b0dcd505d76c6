"""Evaluators of linear classifiers on frozen features: multinomial logistic regression, solved to its optimum."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from repel.base import seeding
from repel.base.collectives import rank
from repel.evaluation.coverage import ceiling
from repel.evaluation.fit_progress import FitProgress
from repel.evaluation.linear_classifier import (
    LinearClassifier,
    check_l2,
    choose_l2,
    fit_classifiers,
    number_of_classes,
)
from repel.evaluation.logistic import evaluations_allowed, no_limit_is_felt
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score, accuracy
from repel.evaluation.sparse import WEIGHTS, SparseClassifier, choose_c, fit_sparse
from repel.evaluation.stored_features import Features, StoredFeatures, join, rows_of

__all__ = ["FewLabels", "LinearProbe"]


class LinearProbe(Evaluator):
    """Logistic regression on standardized features, see linear_probe; on sparse features as they are, see sparse.py.

    Args:
        l2: values to choose from; sparse features have their own, sparse.C_GRID.
        work: multiplications of samples, features and classes that one fit may take; None: logistic.WORK.
    """

    task_metrics = ("linear_top1",)
    takes_sparse = takes_stored = True

    def __init__(self, l2: Sequence[float], work: float | None = None):
        check_l2("evaluators.linear.l2", l2)
        if work is not None and not work > 0:
            raise ValueError(f"evaluators.linear.work must be a number > 0, got {work}")
        self.l2, self.work = list(l2), work

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        return self._fit_group({"class": (train, val)})["class"]

    def fit_tasks(self, tasks: Mapping[str, tuple[Part, Part]], network: Network) -> dict[str, Fitted]:
        fitted: dict[str, Fitted] = {}
        for group in _solved_together(tasks, self.work):
            fitted |= self._fit_group(group)
        return {task: fitted[task] for task in tasks}

    def _fit_group(self, group: Mapping[str, tuple[Part, Part]]) -> dict[str, Fitted]:
        """Several labelings of the same features."""
        trains, vals = zip(*group.values(), strict=True)
        x, val_x = trains[0].x, vals[0].x
        if isinstance(x, Tensor) and x.is_sparse:
            return {task: _fit_sparse(*parts) for task, parts in group.items()}
        classes = [number_of_classes(train.y, val.y) for train, val in group.values()]
        if _is_too_large("linear", [x, val_x], len(x) + len(val_x), sum(classes), self.work):
            return {task: Fitted(lambda test: []) for task in group}
        progress = FitProgress("linear", len(self.l2) + 1)
        choices = choose_l2(x, [t.y for t in trains], val_x, [v.y for v in vals], self.l2, progress, self.work)
        labels = [torch.cat([train.y, val.y]) for train, val in group.values()]
        found = fit_classifiers(join([x, val_x]), labels, choices, progress, self.work)
        return {
            task: _fitted({"l2": choice.l2, "normalize": "standardised"}, choice.top1, classifier, train.y, both)
            for task, train, choice, classifier, both in zip(group, trains, choices, found, labels, strict=True)
        }


def _fit_sparse(train: Part, val: Part) -> Fitted:
    assert isinstance(train.x, Tensor), "sparse features are"
    assert isinstance(val.x, Tensor), "sparse features are"
    features, classes = train.x.shape[1], number_of_classes(train.y, val.y)
    if features * classes > WEIGHTS:
        if rank() == 0:
            print(f"linear   left out: {features:,} sparse features and {classes:,} classes are too many", flush=True)
        return Fitted(lambda test: [])
    c, top1 = choose_c(train.x, train.y, val.x, val.y)
    labels = torch.cat([train.y, val.y])
    classifier = fit_sparse(torch.cat([train.x, val.x]), labels, c)
    return _fitted({"C": c, "normalize": "none"}, top1, classifier, train.y, labels)


def _fitted(
    settings: dict[str, Any], top1: float, classifier: LinearClassifier | SparseClassifier, train: Tensor, both: Tensor
) -> Fitted:
    """Given what was chosen, by which validation accuracy, and the labels of the training split, and of both splits."""

    def score(value: float, split: str, known: Tensor, truth: Tensor) -> Score:
        every = settings | ceiling(known, truth) | _stopped([classifier])
        return Score("linear_top1", "linear top-1", value, every, split)

    return Fitted(
        lambda test: [score(accuracy(classifier.predict(test.x), test.y), "test", both, test.y)],
        [score(top1, "val", train, both[len(train) :])],
    )


def _solved_together(tasks: Mapping[str, tuple[Part, Part]], work: float | None) -> list[dict[str, tuple[Part, Part]]]:
    """The tasks in groups that label the same samples, and are small enough; else one by one."""
    groups: dict[tuple[int, int], dict[str, tuple[Part, Part]]] = {}
    for task, parts in tasks.items():
        groups.setdefault((id(parts[0].x), id(parts[1].x)), {})[task] = parts
    kept = []
    for group in groups.values():
        train, val = next(iter(group.values()))
        classes = sum(number_of_classes(a.y, b.y) for a, b in group.values())
        samples = len(train.x) + len(val.x)
        held = _held([train.x, val.x], samples)
        together = no_limit_is_felt(samples, train.x.shape[1], classes, work, held)
        kept += [group] if together else [{task: parts} for task, parts in group.items()]
    return kept


class FewLabels(Evaluator):
    """The linear probe when only a share of the training labels is known: mean over draws of which.

    Args:
        fractions: of the training samples, the same of every class, at least one each.
        draws: number of random draws.
        l2: values to choose from, on the validation split.
        seed: of the draws.
    """

    takes_stored = True

    def __init__(self, fractions: Sequence[float], draws: int, l2: Sequence[float], seed: int):
        check_l2("evaluators.few_label.l2", l2)
        if not fractions or any(not 0 < f <= 1 for f in fractions) or draws < 1:
            raise ValueError(
                f"evaluators.few_label needs fractions in (0, 1] and draws >= 1, got {list(fractions)} and {draws}"
            )
        self.fractions, self.draws, self.l2, self.seed = list(fractions), draws, list(l2), seed

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        classes = number_of_classes(train.y, val.y)
        classifiers: dict[float, list[tuple[float, int, LinearClassifier]]] = {}
        most = max(classes, round(max(self.fractions) * len(train.y)))
        if _is_too_large("few_label", [train.x], most, classes):
            return Fitted(lambda test: [])
        progress = FitProgress("few_label", len(self.fractions) * self.draws * (len(self.l2) + 1))
        for fraction in self.fractions:
            for draw in range(self.draws):
                few = _share_of_labels(train, fraction, seeding.generator(self.seed, seeding.FEW_LABELS, draw))
                choices = choose_l2(few.x, [few.y], val.x, [val.y], self.l2, progress)
                classifier = fit_classifiers(few.x, [few.y], choices, progress)[0]
                classifiers.setdefault(fraction, []).append((choices[0].l2, len(few.y), classifier))

        def score(test: Part) -> list[Score]:
            scores = []
            for fraction, fits in classifiers.items():
                top1 = torch.tensor([accuracy(c.predict(test.x), test.y) for *_, c in fits], dtype=torch.float64)
                settings: dict[str, Any] = {"labels": fits[0][1], "draws": self.draws, "l2": [l2 for l2, *_ in fits],
                            "normalize": "standardised", "seed": self.seed,
                            "std": float(top1.std()) if self.draws > 1 else None}  # fmt: skip
                settings = settings | ceiling(train.y, test.y) | _stopped([c for *_, c in fits])
                percent = f"{100 * fraction:g}"
                label = f"linear top-1, {percent} % of the labels"
                scores.append(Score(f"linear_{percent}pct_top1", label, float(top1.mean()), settings))
            return scores

        return Fitted(score)


def _is_too_large(name: str, parts: Sequence[Features], samples: int, classes: int, work: float | None = None) -> bool:
    """Whether a fit of so many samples of these features is left out, which a line says."""
    features, held = parts[0].shape[1], _held(parts, samples)
    if evaluations_allowed(samples, features, classes, work, held):
        return False
    if rank() == 0:
        size = f"{samples:,} samples, {features:,} features and {classes:,} classes"
        more = ", or a larger evaluators.linear.work, which takes long" * (name == "linear")
        if not evaluations_allowed(samples, features, classes, math.inf, held):  # memory is the limit
            more = ", or evaluation.memory=0, which holds a part of the logits at a time" * (held == samples)
        print(f"{name:8} left out: {size} are too many for L-BFGS; use evaluators=[sgd_probe], or a smaller "
              f"evaluation.bank{more}", flush=True)  # fmt: skip
    return True


def _held(parts: Sequence[Features], samples: int) -> int:
    """How many of so many samples' logits a fit holds at once: of stored features those of a block."""
    stored = [x for x in parts if isinstance(x, StoredFeatures) and 4 * samples * x.shape[1] > x.limit]
    return min(samples, stored[0].block) if stored else samples


def _stopped(classifiers: Sequence[LinearClassifier | SparseClassifier]) -> dict[str, bool]:
    """For a score's settings: whether a fit ended by its limit of evaluations; empty where none did."""
    return {} if all(c.converged for c in classifiers) else {"converged": False}


def _share_of_labels(part: Part, fraction: float, generator: torch.Generator) -> Part:
    """A random share of every class, at least one of each."""
    order, labels = torch.randperm(len(part.y), generator=generator), part.y.cpu()
    keep = []
    for label in labels.unique():
        of_class = order[labels[order] == label]
        keep.append(of_class[: max(1, round(fraction * len(of_class)))])
    places = torch.cat(keep).sort().values
    return Part(rows_of(part.x, places), part.y[places], part.samples[places])
