"""Multinomial logistic regression, solved to its optimum by L-BFGS: one labeling, or several of the same samples."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from repel.base.cores import one_thread
from repel.evaluation.fit_progress import FitProgress
from repel.evaluation.lbfgs import minimize
from repel.evaluation.logistic_objective import Objective, Scaling

__all__ = [
    "Axes",
    "PrincipalAxes",
    "Solution",
    "evaluations_allowed",
    "logistic_regression",
    "no_limit_is_felt",
    "principal_axes",
]

EVALUATIONS = 4000  # of value and gradient, that one fit may take at most
WORK = 3 * 10**13  # multiplications of samples, features and classes that one fit may take
LEAST = 20  # evaluations; a fit that may not take so many is not begun
SHORT = 2**27  # samples x features x classes: below, an evaluation takes some 10 ms on one core
LOGITS = 2**30  # samples x classes that are held at once, several times 4 bytes


class Solution(NamedTuple):
    """W (C, F), b (C,), and whether the optimum was reached before the limit of evaluations."""

    weight: Tensor
    bias: Tensor
    converged: bool

    @property
    def theta(self) -> Tensor:
        """(C, F + 1), weights and bias."""
        return torch.cat([self.weight, self.bias[:, None]], dim=1)


class Axes(Protocol):
    """Standardized features along their principal axes (F, R), wherever the features are."""

    @property
    def axes(self) -> Tensor: ...

    def objective(self, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]) -> Objective:
        """Of theta (C, R + 1) along these axes."""
        ...


class PrincipalAxes(NamedTuple):
    """x (N, F) in its principal axes, the largest last: coordinates (N, R) and axes (F, R), R = min(N, F).

    With an L2 penalty the weights at the minimum lie in the span of x, so nothing is lost where N < F.
    """

    coordinates: Tensor
    axes: Tensor

    def objective(self, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]) -> Objective:
        return Objective(self.coordinates, labels, classes, l2)


def principal_axes(x: Tensor) -> PrincipalAxes:
    n, features = x.shape
    if n >= features:
        axes = torch.linalg.eigh(x.T @ x / n).eigenvectors
    else:
        axes = torch.linalg.svd(x, full_matrices=False).Vh.T.flip(1)
    return PrincipalAxes(x @ axes, axes)


def evaluations_allowed(
    samples: int, features: int, classes: int, work: float | None = None, held: int | None = None
) -> int:
    """How often a fit may compute value and gradient, so that it ends: `work` over the size, 4,000 at most.

    0 where that is too few to be worth beginning, or the logits do not fit into memory.

    Args:
        work: multiplications of samples, features and classes; None: WORK.
        held: samples whose logits are held at once; None: all.

    >>> [evaluations_allowed(*size) for size in ((6000, 128, 10), (50_000, 2048, 1000), (300_000, 2048, 100_000))]
    [4000, 292, 0]
    """
    rank = min(samples, features)
    allowed = int(min(EVALUATIONS, (WORK if work is None else work) / (samples * rank * classes)))
    return 0 if allowed < LEAST or (samples if held is None else held) * classes > LOGITS else allowed


def no_limit_is_felt(
    samples: int, features: int, classes: int, work: float | None = None, held: int | None = None
) -> bool:
    """Whether a fit of this size may compute value and gradient as often as any; see evaluations_allowed."""
    return evaluations_allowed(samples, features, classes, work, held) == EVALUATIONS


def logistic_regression(
    x: Tensor | Axes,
    labels: Sequence[Tensor],
    classes: Sequence[int],
    l2: Sequence[float],
    starts: Sequence[Tensor] | None,
    tolerance: float,
    progress: FitProgress | None = None,
    work: float | None = None,
) -> list[Solution]:
    """The minimum of mean_i -log softmax(W x_i + b)_{y_i} + l2 / 2 ||W||^2; the bias is not regularized.

    scikit-learn's LogisticRegression(C=1 / (l2 N)) minimises C N times this. Several labelings of the same samples are
    solved at once: one pass over x serves them all. L-BFGS minimizes the sum of their objectives, which share no
    weight, in the precision of x, along its principal axes, each scaled by the root of the curvature at the start.

    Args:
        x: (N, F), or along its principal axes.
        labels: for each labeling y (N,) in 0 .. C - 1, C of `classes`.
        l2: the penalty of each labeling.
        starts: for each labeling (C, F + 1), weights and bias to begin with; None: zeros.
        tolerance: largest entry of the gradient, in the scaled axes, at which the optimum counts as reached: half its
            square is about what the objective can still fall along one weight.
        progress: prints a line now and then where the fit takes long.
        work: see evaluations_allowed.

    Raises:
        ValueError: an l2 is not above 0.
    """
    if any(not value > 0 for value in l2):
        raise ValueError(f"logistic regression needs l2 > 0, got {list(l2)}")
    along = principal_axes(x) if isinstance(x, Tensor) else x
    objective, axes = along.objective(labels, classes, l2), along.axes
    origin = axes.new_zeros(sum(classes), axes.shape[1] + 1)
    if starts is not None:
        begun = torch.cat(list(starts)).to(axes.dtype)
        origin = torch.cat([begun[:, :-1] @ axes, begun[:, -1:]], dim=1)
    theta, converged = _minimum(objective, origin, tolerance, progress, work)
    parts = theta.split(objective.classes)
    return [Solution(part[:, :-1] @ axes.T, part[:, -1], converged) for part in parts]


def _minimum(
    objective: Objective, origin: Tensor, tolerance: float, progress: FitProgress | None, work: float | None
) -> tuple[Tensor, bool]:
    """The theta (C, R + 1) that L-BFGS finds from `origin`, and whether the minimum was reached before the limits."""
    samples, features = objective.shape
    limit = max(LEAST, evaluations_allowed(samples, features, len(origin), work, objective.held))

    def function(move: Tensor) -> tuple[Tensor, Tensor]:
        if progress is not None:
            progress.evaluated()
        value, gradient = objective.value_and_gradient(origin + scaling.spread(move.view_as(origin)))
        return value, scaling.gathered(gradient).flatten()

    with torch.no_grad(), one_thread() if samples * origin.numel() < SHORT else nullcontext():
        scaling = Scaling(objective.curvature(origin), objective.classes)
        move, converged = minimize(function, torch.zeros_like(origin).flatten(), tolerance, limit)
        return origin + scaling.spread(move.view_as(origin)), converged
