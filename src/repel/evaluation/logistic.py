"""Multinomial logistic regression, solved to its optimum by L-BFGS: one labeling, or several of the same samples."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from repel.base.cores import one_thread
from repel.evaluation.fit_progress import FitProgress

__all__ = [
    "Axes",
    "Objective",
    "PrincipalAxes",
    "Solution",
    "evaluations_allowed",
    "logistic_regression",
    "no_limit_is_felt",
    "principal_axes",
]

ITERATIONS = 2000
WORK = 3 * 10**13  # multiplications of samples, features and classes that one fit may take
LEAST = 20  # evaluations; a fit that may not take so many is not begun
FLAT = 1e-2  # the least curvature along a bias is this over C
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

    def objective(self, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]) -> "Objective":
        """Of theta (C, R + 1) along these axes."""
        ...


class PrincipalAxes(NamedTuple):
    """x (N, F) in its principal axes: coordinates (N, R) and axes (F, R), R = min(N, F).

    With an L2 penalty the weights at the minimum lie in the span of x, so nothing is lost where N < F.
    """

    coordinates: Tensor
    axes: Tensor

    def objective(self, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]) -> "Objective":
        return Objective(self.coordinates, labels, classes, l2)


def principal_axes(x: Tensor) -> PrincipalAxes:
    n, features = x.shape
    if n >= features:
        axes = torch.linalg.eigh(x.T @ x / n).eigenvectors
    else:
        axes = torch.linalg.svd(x, full_matrices=False).Vh.T
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
    allowed = int(min(2 * ITERATIONS, (WORK if work is None else work) / (samples * rank * classes)))
    return 0 if allowed < LEAST or (samples if held is None else held) * classes > LOGITS else allowed


def no_limit_is_felt(
    samples: int, features: int, classes: int, work: float | None = None, held: int | None = None
) -> bool:
    """Whether a fit of this size may compute value and gradient as often as any; see evaluations_allowed."""
    return evaluations_allowed(samples, features, classes, work, held) == 2 * ITERATIONS


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
    objective: "Objective", origin: Tensor, tolerance: float, progress: FitProgress | None, work: float | None
) -> tuple[Tensor, bool]:
    """The theta (C, R + 1) that L-BFGS finds from `origin`, and whether the minimum was reached before the limits."""
    samples, features = objective.shape
    scale = objective.curvature(origin).rsqrt()
    move = torch.zeros_like(origin).requires_grad_()
    limit = max(LEAST, evaluations_allowed(samples, features, len(origin), work, objective.held))
    solver = torch.optim.LBFGS(
        [move], max_iter=ITERATIONS, max_eval=limit, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=tolerance, tolerance_change=0.0,
    )  # fmt: skip

    @torch.no_grad()
    def closure() -> Tensor:
        value, gradient = objective.value_and_gradient(origin + move * scale)
        move.grad = gradient * scale
        if progress is not None:
            progress.evaluated()
        return value

    with one_thread() if samples * origin.numel() < SHORT else nullcontext():
        solver.step(closure)
    taken = solver.state[move]
    converged = taken["n_iter"] < ITERATIONS and taken["func_evals"] < limit
    return origin + move.detach() * scale, converged


class Objective:
    """The sum of the objectives of several labelings, of weights and biases theta (C, R + 1), C classes of all.

    shape: (N, R). held: samples whose logits are held at once.

    Classes come first everywhere: a softmax within rows of ten takes longer than the products around it.
    """

    def __init__(self, x: Tensor, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]):
        self.x, self.classes, self.shape, self.held = x, list(classes), x.shape, len(x)
        first = accumulate([0, *self.classes[:-1]])
        self.truth = torch.stack([y + row for y, row in zip(labels, first, strict=True)])  # (labelings, N), among C
        self.l2 = torch.cat([x.new_full((c, 1), value) for value, c in zip(l2, classes, strict=True)])

    def softmax(self, theta: Tensor, x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (C, N), within each labeling, and the sum (N,) of the labelings' losses."""
        logits = theta[:, :-1] @ x.T + theta[:, -1:]
        loss = -logits.gather(0, truth).sum(0)
        for part in logits.split(self.classes):
            normalizer = part.logsumexp(0)
            part -= normalizer
            loss += normalizer
        return logits.exp_(), loss

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, loss = self.softmax(theta, self.x, self.truth)
        residual = probabilities.scatter_add_(0, self.truth, self.x.new_full((), -1.0).expand(self.truth.shape))
        weighted = self.l2 * theta[:, :-1]
        slope = residual @ self.x / len(self.x) + weighted
        value = loss.double().mean() + (weighted * theta[:, :-1]).double().sum() / 2
        return value, torch.cat([slope, residual.mean(1, keepdim=True)], dim=1)

    def curvature(self, theta: Tensor) -> Tensor:
        """The Hessian's diagonal (C, R + 1). Biases, which have no penalty, are taken for no flatter than FLAT / C."""
        probabilities = self.softmax(theta, self.x, self.truth)[0]
        variance = probabilities * (1 - probabilities)
        weights = variance @ self.x.square() / len(self.x) + self.l2
        return torch.cat([weights, variance.mean(1, keepdim=True) + self.flat()], dim=1)

    def flat(self) -> Tensor:
        return torch.cat([self.l2.new_full((c, 1), FLAT / c) for c in self.classes])
