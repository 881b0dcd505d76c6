"""Multinomial logistic regression, solved to its optimum by L-BFGS."""

import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.base.collectives import rank

__all__ = ["FitProgress", "PrincipalAxes", "Solution", "evaluations_allowed", "logistic_regression", "principal_axes"]

ITERATIONS = 2000
WORK = 3 * 10**13  # multiplications of samples, features and classes that one fit may take
LEAST = 20  # evaluations; a fit that may not take so many is not begun
LOGITS = 2**30  # samples x classes that are held at once, several times 4 bytes
PROGRESS_SECONDS = 20.0


class Solution(NamedTuple):
    """W (C, F), b (C,), the value there, and whether the optimum was reached before the limit of evaluations."""

    weight: Tensor
    bias: Tensor
    value: float
    converged: bool


class FitProgress:
    """Prints how far a number of fits is, every 20 s on the first rank: nothing where they are quicker than that.

    Args:
        name: of what fits.
        fits: how many there will be.
    """

    def __init__(self, name: str, fits: int):
        self.name, self.fits, self.begun, self.settings, self.evaluations = name, fits, 0, "", 0
        self.printed = time.perf_counter()

    def begin(self, l2: float) -> "FitProgress":
        """The next fit."""
        self.begun, self.settings, self.evaluations = self.begun + 1, f"l2={l2:g}", 0
        return self

    def evaluated(self) -> None:
        """Value and gradient were computed once more."""
        self.evaluations += 1
        if time.perf_counter() - self.printed >= PROGRESS_SECONDS and rank() == 0:
            self.printed = time.perf_counter()
            print(f"{self.name:8} fit {self.begun} of {self.fits} ({self.settings}): {self.evaluations} evaluations of "
                  "the loss", flush=True)  # fmt: skip


class PrincipalAxes(NamedTuple):
    """x (N, F) in its principal axes: coordinates (N, R) and axes (F, R), R = min(N, F), with the mean squares (R,).

    With an L2 penalty the weights at the minimum lie in the span of x, so nothing is lost where N < F.
    """

    coordinates: Tensor
    axes: Tensor
    squares: Tensor


def principal_axes(x: Tensor) -> PrincipalAxes:
    n, features = x.shape
    if n >= features:
        squares, axes = torch.linalg.eigh(x.T @ x / n)
    else:
        _, values, axes = torch.linalg.svd(x, full_matrices=False)
        squares, axes = values.square() / n, axes.T
    return PrincipalAxes(x @ axes, axes, squares.clamp(min=0))


def evaluations_allowed(samples: int, features: int, classes: int) -> int:
    """How often a fit may compute value and gradient, so that it ends: WORK over the size, 4,000 at most.

    0 where that is too few to be worth beginning, or the logits do not fit into memory.

    >>> [evaluations_allowed(*size) for size in ((6000, 128, 10), (50_000, 2048, 1000), (300_000, 2048, 100_000))]
    [4000, 292, 0]
    """
    rank = min(samples, features)
    allowed = min(2 * ITERATIONS, WORK // (samples * rank * classes))
    return 0 if allowed < LEAST or samples * classes > LOGITS else allowed


def logistic_regression(
    x: Tensor | PrincipalAxes,
    y: Tensor,
    l2: float,
    classes: int,
    start: Tensor | None,
    tolerance: float,
    progress: FitProgress | None = None,
) -> Solution:
    """The minimum of mean_i -log softmax(W x_i + b)_{y_i} + l2 / 2 ||W||^2; the bias is not regularized.

    scikit-learn's LogisticRegression(C=1 / (l2 N)) minimises C N times this. L-BFGS works in the principal axes of x,
    scaled by the bound sqrt(mean square / 2 + l2) on the curvature along each (Boehning 1992, Ann. Inst. Stat. Math.
    44), in the precision of x.

    Args:
        x: (N, F), or its principal axes; y: (N,) in 0 .. classes - 1.
        start: (classes, F + 1), weights and bias to begin with, such as the solution for a neighbouring l2, or None.
        tolerance: largest entry of the gradient, in the scaled axes, at which the optimum counts as reached.
        progress: prints a line now and then where the fit takes long.

    Raises:
        ValueError: l2 is not above 0.
    """
    if not l2 > 0:
        raise ValueError(f"logistic regression needs l2 > 0, got {l2}")
    x, axes, squares = x if isinstance(x, PrincipalAxes) else principal_axes(x)
    scale = (squares / 2 + l2).rsqrt()
    scaled, penalty = x * scale, 0.5 * l2 * scale.square()
    theta = x.new_zeros(classes, x.shape[1] + 1)
    if start is not None:
        theta = torch.cat([start[:, :-1] @ axes / scale, start[:, -1:]], dim=1)
    theta.requires_grad_()
    limit = max(LEAST, evaluations_allowed(len(x), x.shape[1], classes))
    solver = torch.optim.LBFGS(
        [theta], max_iter=ITERATIONS, max_eval=limit, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=tolerance, tolerance_change=0.0,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        weight = theta[:, :-1]
        value = F.cross_entropy(scaled @ weight.T + theta[:, -1], y) + (penalty * weight.square()).sum()
        value.backward()
        if progress is not None:
            progress.evaluated()
        return value.detach()

    with torch.enable_grad():
        solver.step(closure)
        value = float(closure())
    taken = solver.state[theta]
    converged = taken["n_iter"] < ITERATIONS and taken["func_evals"] < limit
    theta = theta.detach()
    return Solution((theta[:, :-1] * scale) @ axes.T, theta[:, -1], value, converged)
