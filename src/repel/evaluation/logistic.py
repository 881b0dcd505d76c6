"""Multinomial logistic regression, solved to its optimum by L-BFGS."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PrincipalAxes", "logistic_regression", "principal_axes"]

ITERATIONS = 2000


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


def logistic_regression(
    x: Tensor | PrincipalAxes, y: Tensor, l2: float, classes: int, start: Tensor | None, tolerance: float
) -> tuple[Tensor, Tensor, float]:
    """The minimum of mean_i -log softmax(W x_i + b)_{y_i} + l2 / 2 ||W||^2; the bias is not regularized.

    scikit-learn's LogisticRegression(C=1 / (l2 N)) minimises C N times this. L-BFGS works in the principal axes of x,
    scaled by the bound sqrt(mean square / 2 + l2) on the curvature along each (Boehning 1992, Ann. Inst. Stat. Math.
    44), in the precision of x.

    Args:
        x: (N, F), or its principal axes; y: (N,) in 0 .. classes - 1.
        start: (classes, F + 1), weights and bias to begin with, such as the solution for a neighbouring l2, or None.
        tolerance: largest entry of the gradient, in the scaled axes, at which the optimum counts as reached.

    Returns:
        W (classes, F), b (classes,), and the value at the minimum.

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
    solver = torch.optim.LBFGS(
        [theta], max_iter=ITERATIONS, max_eval=2 * ITERATIONS, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=tolerance, tolerance_change=0.0,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        weight = theta[:, :-1]
        value = F.cross_entropy(scaled @ weight.T + theta[:, -1], y) + (penalty * weight.square()).sum()
        value.backward()
        return value.detach()

    with torch.enable_grad():
        solver.step(closure)
        value = float(closure())
    theta = theta.detach()
    return (theta[:, :-1] * scale) @ axes.T, theta[:, -1], value
