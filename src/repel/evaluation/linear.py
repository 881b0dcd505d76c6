"""Linear classifiers on frozen features: multinomial logistic regression, solved to its optimum by L-BFGS."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from repel.base import seeding
from repel.base.collectives import rank
from repel.evaluation.coverage import ceiling
from repel.evaluation.logistic import FitProgress, evaluations_allowed, logistic_regression, principal_axes
from repel.evaluation.protocol import Array, Evaluator, Fitted, Network, Part, Score, accuracy

__all__ = ["FewLabels", "LinearClassifier", "LinearProbe", "linear_probe"]

SEARCH_TOLERANCE, FINAL_TOLERANCE = 1e-3, 1e-4  # of the gradient, while l2 is chosen, and of the probe
L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class _Labeled(Protocol):
    """Features x (N, F) with labels y (N,); a Part is such."""

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...


class _Arrays(NamedTuple):
    x: Tensor
    y: Tensor


class LinearClassifier(NamedTuple):
    """Predicts the class of the largest of (x - mean) / std @ weight.T + bias; all float64.

    weight (C, F), bias (C,), mean and std (F,). converged: whether the optimum was reached, see evaluations_allowed.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    converged: bool = True

    def predict(self, x: Array) -> Tensor:
        """Features (N, F), a tensor or an array -> classes (N,)."""
        return (((torch.as_tensor(x).double() - self.mean) / self.std) @ self.weight.T + self.bias).argmax(1)


def _mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) float64; 1 for features that do not vary."""
    x = x.double()
    std = x.std(0, correction=0)
    return x.mean(0), std.where(std > 1e-8 * std.max().clamp(min=1e-30), 1.0)


def _fit_classifier(x: Tensor, y: Tensor, l2: float, classes: int, progress: FitProgress) -> LinearClassifier:
    """A classifier on features standardized by their own mean and deviation."""
    mean, std = _mean_and_std(x)
    standardized = ((x - mean) / std).float()
    found = logistic_regression(standardized, y, l2, classes, None, FINAL_TOLERANCE, progress.begin(l2))
    return LinearClassifier(found.weight.double(), found.bias.double(), mean, std, found.converged)


def _choose_l2(
    train: _Labeled, val: _Labeled, grid: Sequence[float], classes: int, progress: FitProgress | None = None
) -> tuple[float, float]:
    """The regularization with the best validation accuracy, the strongest of equals, and that accuracy.

    From the strongest down, each solution starts from the one before.
    """
    mean, std = _mean_and_std(train.x)
    x, best, start = principal_axes(((train.x - mean) / std).float()), (0.0, -1.0), None
    for l2 in sorted(grid, reverse=True):
        begun = progress and progress.begin(l2)
        weight, bias, *_ = logistic_regression(x, train.y, l2, classes, start, SEARCH_TOLERANCE, begun)
        start = torch.cat([weight, bias[:, None]], dim=1)
        top1 = accuracy(LinearClassifier(weight.double(), bias.double(), mean, std).predict(val.x), val.y)
        if top1 > best[1]:
            best = (l2, top1)
    return best


def _choose_and_fit(train: _Labeled, val: _Labeled, grid: Sequence[float]) -> tuple[LinearClassifier, float, float]:
    """The classifier of both splits, the l2 chosen for it, and the validation accuracy that l2 was chosen by."""
    classes = int(max(train.y.max(), val.y.max())) + 1
    progress = FitProgress("linear", len(grid) + 1)
    l2, top1 = _choose_l2(train, val, grid, classes, progress)
    return _fit_classifier(torch.cat([train.x, val.x]), torch.cat([train.y, val.y]), l2, classes, progress), l2, top1


def linear_probe(x: Array, y: Array, val_x: Array, val_y: Array, l2: Sequence[float] = L2_GRID) -> LinearClassifier:
    """Multinomial logistic regression on frozen features: l2 chosen on validation, then refitted on both splits.

    Features are standardized. The objective is mean cross-entropy + l2 / 2 ||W||^2, solved by L-BFGS; see
    logistic_regression.

    Args:
        x, y: (N, F) features and (N,) labels in 0 .. C - 1 to fit on, tensors or arrays.
        val_x, val_y: (M, F) and (M,), likewise, to choose l2 on.
        l2: values to choose from, each > 0.

    Raises:
        ValueError: l2 is empty or has a value that is not above 0.

    >>> x, y = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    >>> linear_probe(x, y, x, y).predict(torch.tensor([[-3.0], [0.5]]))
    tensor([0, 1])
    """
    _check_l2("linear_probe: l2", l2)
    train, val = (
        _Arrays(torch.as_tensor(features), torch.as_tensor(labels).long())
        for features, labels in ((x, y), (val_x, val_y))
    )
    return _choose_and_fit(train, val, l2)[0]


def _check_l2(name: str, l2: Sequence[float]) -> None:
    if not l2 or any(not value > 0 for value in l2):
        raise ValueError(f"{name} needs numbers > 0, got {list(l2)}")


class LinearProbe(Evaluator):
    """Logistic regression on standardized features, see linear_probe.

    Args:
        l2: values to choose from.
    """

    task_metrics = ("linear_top1",)

    def __init__(self, l2: Sequence[float]):
        _check_l2("evaluators.linear.l2", l2)
        self.l2 = list(l2)

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        classes = int(max(train.y.max(), val.y.max())) + 1
        if _is_too_large("linear", len(train.y) + len(val.y), train.x.shape[1], classes):
            return Fitted(lambda test: [])
        classifier, l2, val_top1 = _choose_and_fit(train, val, self.l2)

        def score(value: float, split: str, known: Tensor, truth: Tensor) -> Score:
            settings = {"l2": l2, "normalize": "standardised"} | ceiling(known, truth) | _stopped([classifier])
            return Score("linear_top1", "linear top-1", value, settings, split)

        both = torch.cat([train.y, val.y])
        return Fitted(
            lambda test: [score(accuracy(classifier.predict(test.x), test.y), "test", both, test.y)],
            [score(val_top1, "val", train.y, val.y)],
        )


class FewLabels(Evaluator):
    """The linear probe when only a share of the training labels is known: mean over draws of which.

    Args:
        fractions: of the training samples, the same of every class, at least one each.
        draws: number of random draws.
        l2: values to choose from, on the validation split.
        seed: of the draws.
    """

    def __init__(self, fractions: Sequence[float], draws: int, l2: Sequence[float], seed: int):
        _check_l2("evaluators.few_label.l2", l2)
        if not fractions or any(not 0 < f <= 1 for f in fractions) or draws < 1:
            raise ValueError(
                f"evaluators.few_label needs fractions in (0, 1] and draws >= 1, got {list(fractions)} and {draws}"
            )
        self.fractions, self.draws, self.l2, self.seed = list(fractions), draws, list(l2), seed

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        classes = int(max(train.y.max(), val.y.max())) + 1
        classifiers: dict[float, list[tuple[float, int, LinearClassifier]]] = {}
        most = max(classes, round(max(self.fractions) * len(train.y)))
        if _is_too_large("few_label", most, train.x.shape[1], classes):
            return Fitted(lambda test: [])
        progress = FitProgress("few_label", len(self.fractions) * self.draws * (len(self.l2) + 1))
        for fraction in self.fractions:
            for draw in range(self.draws):
                few = _share_of_labels(train, fraction, seeding.generator(self.seed, seeding.FEW_LABELS, draw))
                l2, _ = _choose_l2(few, val, self.l2, classes, progress)
                classifier = _fit_classifier(few.x, few.y, l2, classes, progress)
                classifiers.setdefault(fraction, []).append((l2, len(few.y), classifier))

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


def _is_too_large(name: str, samples: int, features: int, classes: int) -> bool:
    """Whether a fit of this size is left out, which a line says."""
    if evaluations_allowed(samples, features, classes):
        return False
    if rank() == 0:
        size = f"{samples:,} samples, {features:,} features and {classes:,} classes"
        print(f"{name:8} left out: {size} are too many for L-BFGS; use evaluators=[sgd_probe], or a smaller "
              "evaluation.bank", flush=True)  # fmt: skip
    return True


def _stopped(classifiers: Sequence[LinearClassifier]) -> dict[str, bool]:
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
    return Part(part.x[places], part.y[places], part.samples[places])
