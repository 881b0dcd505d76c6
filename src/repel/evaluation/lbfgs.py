"""L-BFGS for convex functions whose curvature is about 1 along each variable: its first step is that of Newton."""

from collections import deque
from collections.abc import Callable

from torch import Tensor

__all__ = ["minimize"]

MEMORY = 20  # steps that the curvature is estimated from
FLATTER = 0.8  # a step's end may be this much as steep uphill as its start is downhill
ROUNDING = 1e-6  # by which a value may rise, in proportion
TRIALS = 10  # lengths of one step

Pair = tuple[Tensor, Tensor, float]  # a step (n,), the gradient's change along it, and their product


def minimize(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, tolerance: float, limit: int
) -> tuple[Tensor, bool]:
    """Where no entry of the gradient is above the tolerance, and whether it was reached.

    Nocedal 1980, doi 10.1090/S0025-5718-1980-0572855-7. A step ends where the approximate Wolfe conditions of Hager,
    Zhang 2005, doi 10.1137/030601880, hold: slopes decide, as near the minimum differences of values are rounding.

    torch.optim.LBFGS begins with a step of length 1 at most, whatever the gradient, and has to find the length of the
    first steps in several trials, which here is 1.

    Args:
        function: x (n,) -> value () and gradient (n,).
        x: to begin with.
        limit: of evaluations of the function.

    Example:
        >>> import torch
        >>> minimize(lambda x: ((x - 2).square().sum() / 2, x - 2), torch.zeros(3), 1e-5, 100)
        (tensor([2., 2., 2.]), True)
    """
    (value, gradient), evaluations = function(x), 1
    pairs: deque[Pair] = deque(maxlen=MEMORY)
    while not bool(gradient.abs().max() <= tolerance):  # NaN is not
        move = -_newton_step(gradient, pairs)
        start, length, accepted = float(move.dot(gradient)), 1.0, False
        for _ in range(TRIALS):
            if evaluations >= limit:
                return x, False
            further, evaluations = x + length * move, evaluations + 1
            new, slope = function(further)
            end = float(move.dot(slope))
            if accepted := end <= -FLATTER * start and bool(new <= value + ROUNDING * value.abs()):
                break
            length *= max(0.1, min(0.5, start / (start - end))) if end > 0 else 0.1  # where a straight slope is 0
        if not accepted:
            if not pairs:  # nothing but rounding
                return x, False
            pairs.clear()
            continue
        step, change = further - x, slope - gradient
        if (product := float(step.dot(change))) > 0:
            pairs.append((step, change, product))
        x, value, gradient = further, new, slope
    return x, True


def _newton_step(gradient: Tensor, pairs: deque[Pair]) -> Tensor:
    """The estimated inverse Hessian times the gradient."""
    found, weights = gradient.clone(), []
    for step, change, product in reversed(pairs):
        weights.append(float(step.dot(found)) / product)
        found.sub_(change, alpha=weights[-1])
    if pairs:
        _, change, product = pairs[-1]
        found *= product / float(change.dot(change))
    for step, change, product in pairs:
        found.add_(step, alpha=weights.pop() - float(change.dot(found)) / product)
    return found
