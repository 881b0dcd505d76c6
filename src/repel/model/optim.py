"""Optimiser and schedule: no weight decay on biases and norms, learning rate as a factor of the time in epochs."""

import math
from collections.abc import Callable

from torch import nn

Schedule = Callable[[float], float]


def parameter_groups(modules: list[nn.Module], weight_decay: float | None) -> list[dict]:
    """Two groups: weights, which decay, and biases, norms and scalars, with at most one dimension, which do not.

    Without a weight_decay, weights have the optimizer's own default.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], **decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def cosine(epoch: float, warmup_epochs: float, max_epochs: float, final: float) -> float:
    """Linear warm-up, then half a cosine from 1 to `final` (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5).

    Args:
        epoch: time since the start, in epochs; fractions count.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    done = min(1.0, (epoch - warmup_epochs) / max(max_epochs - warmup_epochs, 1e-9))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def constant(epoch: float, warmup_epochs: float) -> float:
    """Linear warm-up, then 1."""
    return epoch / warmup_epochs if epoch < warmup_epochs else 1.0
