"""Some of an anchor's negatives, drawn at random."""

from typing import Any

import torch
from torch import Tensor

from repel.base import seeding
from repel.base.hashing import GOLDEN, element_bits, hashed, signed
from repel.negatives.strategy import LogitBlock, Strategy
from repel.negatives.training_pairs import Shares, training_pairs

__all__ = ["Random"]

_VIEW_BIT = 48  # a number of 64 bits: the view, the sample's place in the batch of all ranks


class Random(Strategy):
    """k random negatives of each anchor, without replacement; all of them where it has no more.

    k = 1 with InfoNCE is BPR, L = mean_i softplus(l_in - l_ip), on negatives of the batch (Rendle, Freudenthaler,
    Gantner, Schmidt-Thieme 2009, arXiv:1205.2618, sec. 4.1). In a chain before `hardest` it is dynamic negative
    sampling: the hardest of k (Zhang, Chen, Wang, Yu 2013, doi 10.1145/2484028.2484126), and before `topk` DNS(M, N)
    (Shi et al. 2023, arXiv:2302.03472).

    What an anchor keeps is a hash of (seed, number of batches so far; view, sample; place of the candidate), so that
    ranks, row chunks and a resumed run draw the same.

    Args:
        k: how many, at least 1.
        flat: a batch of pairs shows popular entities more often; draw each candidate with a probability in proportion
            to 1 / q_j, q its share of the training pairs, so that every entity has the same chance, as where papers
            sample negatives uniformly. Drawn as an exponential race, which is Gumbel top-k (Kool, van Hoof, Welling
            2019, arXiv:1903.06059).
        seed: of the draws.

    Raises:
        ValueError: k is no whole number, or below 1; flat, and the data has no pairs of users and items, or there are
            no pairs, or no ids (when called).

    >>> block = LogitBlock(torch.zeros(2, 4), torch.zeros(2), torch.ones(2, 4).bool(), 1.0)
    >>> block = block._replace(row_samples=torch.tensor([0, 1]), row_views=torch.tensor([0, 0]))
    >>> Random(k=3).keep(block).sum(1)
    tensor([3, 3])
    """

    batches: Tensor

    def __init__(self, k: int = 1, flat: bool = False, seed: int = 1):
        super().__init__()
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"negatives.k must be a whole number, at least 1, got {k}")
        self.k, self.flat, self.seed = k, flat, seed
        self.shares: Shares | None = None
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def on_data(self, info: Any) -> None:
        if self.flat:
            self.shares = Shares.of(training_pairs(info, "negatives.flat=true"))

    def keep(self, block: LogitBlock) -> Tensor:
        if self.k >= block.negative.shape[1]:
            return block.negative
        bits = self._bits(block)
        if self.flat:
            keys = (-self._arrival(bits, block)).masked_fill(~block.negative, -torch.inf)
        else:  # the least key is left to what is no negative
            keys = bits.clamp_(min=1 - 2**31).masked_fill(~block.negative, -(2**31))
        drawn = keys.topk(self.k, dim=1, sorted=False).indices if self.k > 1 else keys.argmax(1, keepdim=True)
        return torch.zeros_like(block.negative).scatter_(1, drawn, True) & block.negative

    def _bits(self, block: LogitBlock) -> Tensor:
        """(m, n) int32, random."""
        assert block.row_samples is not None, "losses pass them"
        assert block.row_views is not None, "losses pass them"
        key = self.batches.to(block.logits.device) * signed(GOLDEN, 64)
        key = key + seeding.mix(self.seed, seeding.RANDOM_NEGATIVES)
        keys = hashed(key + (block.row_views << _VIEW_BIT) + block.row_samples)
        return element_bits(keys[:, None].view(torch.int32), block.negative.shape[1])

    def _arrival(self, bits: Tensor, block: LogitBlock) -> Tensor:
        """log of exponential times with rates 1 / q_j, (m, n)."""
        if self.shares is None:
            raise ValueError("negatives.flat=true has no training pairs: call on_data with them, as training does")
        if block.col_ids is None:
            raise ValueError("negatives.flat=true looks candidates up by ids: call the loss with ids")
        self.shares = self.shares.to(bits.device)  # once
        uniform = ((bits >> 8) + (2**23 + 0.5)) / 2**24  # in (0, 1)
        return (-uniform).log1p_().neg_().log_() + self.shares.log_drawn(block).to(uniform.dtype)

    def advance(self) -> None:
        self.batches += 1
