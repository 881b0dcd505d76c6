"""Linear classifiers on frozen features, their regularization chosen on validation."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from repel.evaluation.fit_progress import FitProgress
from repel.evaluation.logistic import Axes, PrincipalAxes, logistic_regression, principal_axes
from repel.evaluation.logistic_stored import StoredAxes, stored_axes, stored_moments
from repel.evaluation.protocol import Array, accuracy
from repel.evaluation.stored_features import Features, StoredFeatures, row_blocks

__all__ = [
    "Choice",
    "LinearClassifier",
    "check_l2",
    "choose_l2",
    "fit_classifiers",
    "linear_probe",
    "mean_and_std",
    "number_of_classes",
]

SEARCH_TOLERANCE, FINAL_TOLERANCE = 3e-4, 1e-5  # of the gradient, while l2 is chosen, and of the probe
ROWS = 256  # taken to float64 at a time: they stay in the cores' caches
L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class LinearClassifier(NamedTuple):
    """Predicts the class of the largest of (x - mean) / std @ weight.T + bias; all float64.

    weight (C, F), bias (C,), mean and std (F,). converged: whether the optimum was reached, see evaluations_allowed.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    converged: bool = True

    def predict(self, x: Array | StoredFeatures) -> Tensor:
        """Features (N, F), a tensor, an array or stored ones -> classes (N,)."""
        if isinstance(x, StoredFeatures):
            return torch.cat([self.predict(rows) for rows in row_blocks(x)])
        return (((torch.as_tensor(x).double() - self.mean) / self.std) @ self.weight.T + self.bias).argmax(1)

    def standardized_by(self, mean: Tensor, std: Tensor) -> Tensor:
        """Weights and bias (C, F + 1) that say the same of features standardized by these."""
        weight, shift = self.weight / self.std, (mean - self.mean) / self.std
        return torch.cat([weight * std, (self.bias + self.weight @ shift)[:, None]], dim=1)


class Choice(NamedTuple):
    """A labeling's l2, the validation accuracy that it was chosen by, and the classifier of the training split.

    axes: (F, R) of the training split's features, for fit_classifiers.
    """

    l2: float
    top1: float
    classifier: LinearClassifier
    axes: Tensor | None = None


def number_of_classes(*labels: Tensor) -> int:
    return int(max(y.max() for y in labels)) + 1


def mean_and_std(x: Features) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) float64; 1 for features that do not vary."""
    mean, std = stored_moments(x) if isinstance(x, StoredFeatures) else _moments(x)
    return mean, std.where(std > 1e-8 * std.max().clamp(min=1e-30), 1.0)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = torch.stack([rows.double().sum(0) for rows in x.split(ROWS)]).sum(0) / len(x)
    squares = torch.stack([(rows.double() - mean).square().sum(0) for rows in x.split(ROWS)]).sum(0)
    return mean, (squares / len(x)).sqrt()


def _along_axes(x: Features, mean: Tensor, std: Tensor, known: Tensor | None = None) -> Axes:
    """Standardized, along the known axes (F, F) of similar features, or else along their own."""
    if known is not None and known.shape[0] != known.shape[1]:
        known = None  # those of fewer samples than features leave out what others have
    if isinstance(x, StoredFeatures):
        return stored_axes(x, mean, std) if known is None else StoredAxes(x, mean, std, known)
    standard = torch.cat([((rows - mean) / std).float() for rows in x.split(ROWS)])
    return principal_axes(standard) if known is None else PrincipalAxes(standard @ known, known)


def choose_l2(
    x: Features,
    labels: Sequence[Tensor],
    val_x: Features,
    val_labels: Sequence[Tensor],
    grid: Sequence[float],
    progress: FitProgress | None = None,
    work: float | None = None,
) -> list[Choice]:
    """For each labeling the regularization with the best validation accuracy, the strongest of equals.

    From the strongest down. Each fit begins where the line through the last two solutions, over log l2, leads to.

    Args:
        x, val_x: (N, F) and (M, F) features.
        labels, val_labels: (N,) and (M,) of each labeling.
        grid: values to choose from.
        progress: prints a line now and then where a fit takes long.
        work: see logistic.evaluations_allowed.
    """
    classes = [number_of_classes(*both) for both in zip(labels, val_labels, strict=True)]
    mean, std = mean_and_std(x)
    along = _along_axes(x, mean, std)
    best: list[Choice | None] = [None] * len(classes)
    path: list[tuple[float, list[Tensor]]] = []
    for l2 in sorted(grid, reverse=True):
        every = [l2] * len(classes)
        begun = progress and progress.begin(every)
        found = logistic_regression(along, labels, classes, every, _foreseen(path, l2), SEARCH_TOLERANCE, begun,
                                    work)  # fmt: skip
        path = [*path[-1:], (l2, [solution.theta for solution in found])]
        for i, (solution, truth) in enumerate(zip(found, val_labels, strict=True)):
            weight, bias = solution.weight.double(), solution.bias.double()
            classifier = LinearClassifier(weight, bias, mean, std, solution.converged)
            top1 = accuracy(classifier.predict(val_x), truth)
            if (former := best[i]) is None or top1 > former.top1:
                best[i] = Choice(l2, top1, classifier, along.axes)
    return [choice for choice in best if choice is not None]


def _foreseen(path: Sequence[tuple[float, list[Tensor]]], l2: float) -> list[Tensor] | None:
    """Where the solutions for l2 are about to be, by the last two of the path."""
    if len(path) < 2 or path[0][0] == path[1][0]:
        return path[-1][1] if path else None
    (first, before), (second, last) = path
    step = math.log(l2 / second) / math.log(second / first)
    return [now + step * (now - then) for then, now in zip(before, last, strict=True)]


def fit_classifiers(
    x: Features,
    labels: Sequence[Tensor],
    choices: Sequence[Choice],
    progress: FitProgress | None = None,
    work: float | None = None,
) -> list[LinearClassifier]:
    """The classifiers of further features x (N, F) and labels (N,) with each labeling's chosen l2."""
    mean, std = mean_and_std(x)
    starts = [choice.classifier.standardized_by(mean, std) for choice in choices]
    l2, classes = [choice.l2 for choice in choices], [len(start) for start in starts]
    begun = progress and progress.begin(l2)
    along = _along_axes(x, mean, std, choices[0].axes)
    found = logistic_regression(along, labels, classes, l2, starts, FINAL_TOLERANCE, begun, work)
    return [LinearClassifier(s.weight.double(), s.bias.double(), mean, std, s.converged) for s in found]


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
    check_l2("linear_probe: l2", l2)
    x, val_x = torch.as_tensor(x), torch.as_tensor(val_x)
    y, val_y = torch.as_tensor(y).long(), torch.as_tensor(val_y).long()
    choices = choose_l2(x, [y], val_x, [val_y], l2)
    return fit_classifiers(torch.cat([x, val_x]), [torch.cat([y, val_y])], choices)[0]


def check_l2(name: str, l2: Sequence[float]) -> None:
    if not l2 or any(not value > 0 for value in l2):
        raise ValueError(f"{name} needs numbers > 0, got {list(l2)}")
