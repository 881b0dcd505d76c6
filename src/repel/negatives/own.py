"""Explicit negatives of the anchor's own sample, weighed by themselves."""

import math

import torch
from torch import Tensor

from repel.negatives.strategy import ExplicitNegatives, LogitBlock, Strategy, check_explicit, own_explicit


class OwnNegatives(Strategy):
    """The explicit negatives of an anchor's own sample weigh `weight` times as much as all others: w = log weight.

    Gao, Yao, Chen 2021 (supervised SimCSE), arXiv:2104.08821, eq. 5 in its form with alpha^1[i=j]: `weight` is alpha,
    of the contradiction that belongs to the premise. (The authors' code takes log alpha as hard_negative_weight.)

    Args:
        weight: alpha > 0; 1 is uniform.
        only: drop all other negatives. With one drawn negative a pair, InfoNCE is then BPR, softplus(l_ij - l_ip)
            (Rendle, Freudenthaler, Gantner, Schmidt-Thieme 2009, arXiv:1205.2618, sec. 4.1).

    Raises:
        ValueError: weight is not above 0; or the data brings no explicit negatives.

    >>> block = LogitBlock(torch.zeros(1, 3), torch.zeros(1), torch.ones(1, 3).bool(), 1.0)
    >>> block = block._replace(row_samples=torch.tensor([1]), explicit=(1, 2))  # the last two are explicit negatives
    >>> OwnNegatives(weight=math.e).weights(block)
    tensor([[0., 0., 1.]])
    >>> OwnNegatives(only=True).weights(block)
    tensor([[-inf, -inf, 0.]])
    """

    tilewise = True

    def __init__(self, weight: float = 1.0, only: bool = False):
        super().__init__()
        if not 0 < weight < math.inf:
            raise ValueError(f"negatives.weight must be > 0 and finite, got {weight}")
        self.weight, self.only = weight, only
        self.own_only = only

    def on_data(self, info: ExplicitNegatives) -> None:
        check_explicit(info, "negatives=own_negatives")

    def weights(self, block: LogitBlock) -> Tensor:
        own = own_explicit(block)
        others = torch.full_like(block.logits, -math.inf if self.only else 0)
        return others.masked_fill(own, math.log(self.weight))
