"""Optimiser and schedule: no weight decay on biases and norms, learning rate as a factor of the time in epochs."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

Schedule = Callable[[float], float]
REFERENCE_BATCH = 256
SCALING: dict[str, Callable[[float], float]] = {
    "off": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": math.sqrt,
}


def parameter_groups(modules: list[nn.Module], weight_decay: float | None, named: bool = True) -> list[dict]:
    """Two groups: weights, which decay, and the rest, which does not.

    The rest are biases, norms and scalars, with at most one dimension, and what a module names itself: a method
    `no_weight_decay()` returns names of its parameters, as timm's models have it for position embeddings and class
    tokens.

    Args:
        weight_decay: None is the optimizer's own default.
        named: False leaves out what modules name, as the first edition did.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    kept = [p for module in modules for p in _named(module)] if named else []
    decays = [p.ndim > 1 and not any(p is other for other in kept) for p in parameters]
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    groups = [
        {"params": [p for p, yes in zip(parameters, decays, strict=True) if yes], **decay},
        {"params": [p for p, yes in zip(parameters, decays, strict=True) if not yes], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _named(module: nn.Module) -> list[nn.Parameter]:
    """What the parts of a module name in no_weight_decay()."""
    found = []
    for part in module.modules():
        names: Any = getattr(part, "no_weight_decay", None)
        if callable(names):
            own = dict(part.named_parameters())
            found += [own[name] for name in names() if name in own]
    return found


def scaled_rate(rate: float, rule: str, batch_size: int) -> float:
    """A learning rate that is meant for 256 samples, for batches of another size.

    Args:
        rate: of a batch of 256.
        rule: `linear`, with the batch (Goyal et al. 2017, arXiv:1706.02677), `sqrt`, with its root, or `off`.
        batch_size: of all devices together.

    Raises:
        ValueError: another rule.

    Examples:
        >>> scaled_rate(0.3, "linear", 1024), scaled_rate(0.3, "sqrt", 1024)
        (1.2, 0.6)
    """
    if rule not in SCALING:
        raise ValueError(f"optimizer.scale_lr must be {', '.join(SCALING)}, got {rule!r}")
    return rate * SCALING[rule](batch_size / REFERENCE_BATCH)


def fill_length(schedule: Schedule, length: float) -> Schedule:
    """The schedule with the length of training, in epochs, for its option max_epochs where that is None."""
    if not isinstance(schedule, partial):
        return schedule
    # Hydra's partial checks what it calls in every call, which takes longer than a small batch's forward pass
    length_option = {"max_epochs": length} if schedule.keywords.get("max_epochs", 0) is None else {}
    return partial(schedule.func, *schedule.args, **(schedule.keywords | length_option))


def cosine(epoch: float, warmup_epochs: float, max_epochs: float, final: float) -> float:
    """Linear warm-up, then half a cosine from 1 to `final` (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5).

    Args:
        epoch: time since the start, in epochs; fractions count.
        max_epochs: when `final` is reached; in conf/, null is where training ends.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    done = min(1.0, (epoch - warmup_epochs) / max(max_epochs - warmup_epochs, 1e-9))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def constant(epoch: float, warmup_epochs: float) -> float:
    """Linear warm-up, then 1."""
    return epoch / warmup_epochs if epoch < warmup_epochs else 1.0
