"""LARS, an optimizer for large batches, which torch has none of."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["LARS"]


class LARS(Optimizer):
    """SGD with momentum, with a learning rate for each weight: layer-wise adaptive rate scaling.

    You et al. 2017, arXiv:1708.03888, eq. 6 and algorithm 1, for a weight w with gradient g:

        rate = trust * |w| / ( |g| + weight_decay * |w| )
        v    = momentum * v + lr * rate * ( g + weight_decay * w )
        w    = w - v

    As in SimCLR (Chen et al. 2020, arXiv:2002.05709, sec. 2.2), biases and norm weights take no part: a parameter with
    at most one dimension has rate 1 and does not decay. Where |w| or |g| is 0 the rate is 1. SimCLR's code has
    |g + weight_decay * w| below the line, which at its weight decay of 1e-6 is the same to 6 digits.

    Args:
        params: parameters, or groups of them.
        lr: gamma, > 0; 0.3 * batch / 256 in SimCLR, which `optimizer.scale_lr=linear` computes.
        momentum: in [0, 1).
        weight_decay: beta, >= 0.
        trust: eta, > 0.

    Raises:
        ValueError: a value out of its range.

    Examples:
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = LARS(layer.parameters(), lr=0.3)
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
    ):
        ranges = (
            ("lr", lr, lr > 0, "> 0"),
            ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
            ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"),
            ("trust", trust, trust > 0, "> 0"),
        )
        for name, value, holds, words in ranges:
            if not holds:
                raise ValueError(f"optimizer.{name} must be {words}, got {value}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: computes the loss and its gradients anew.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        if weight.ndim > 1:
            norm, slope = weight.norm(), gradient.norm()
            rate = group["trust"] * norm / (slope + decay * norm)
            # where, not if: the host does not wait for the device
            rate = torch.where((norm > 0) & (slope > 0), rate, torch.ones_like(rate))
            gradient = rate * gradient.add(weight, alpha=decay)
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        weight.sub_(state["velocity"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"]))
