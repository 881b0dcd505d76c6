"""Synthetic negatives."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.base import seeding
from repel.negatives.strategy import LogitBlock, Strategy, negatives_only


class Mixed(Strategy):
    """Synthetic hard negatives beside the real ones: mixtures of an anchor's hardest negatives.

        h  = unit( a n_i + (1 - a) n_j ),   a uniform in (0, 1)
        h' = unit( b q + (1 - b) n_i ),     b uniform in (0, 0.5), q the anchor

    Kalantidis, Sariyildiz, Pion, Weinzaepfel, Larlus 2020 (MoCHi), arXiv:2010.01028, eq. 2 and 3. No gradient goes
    through the mixtures. Which ranks are mixed, and how, is drawn once a batch for all anchors, as a function of (seed,
    number of batches so far): each anchor's draw is distributed as in the paper, and ranks, row chunks and a resumed
    run see the same ones.

    Args:
        hardest: how many of the hardest negatives are mixed, N.
        pairs: mixtures of two negatives, s.
        with_anchor: mixtures of a negative and the anchor, s'.
        seed: of the draws.

    Raises:
        ValueError: a number is not whole or too small.

    >>> from repel.losses import NTXent
    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> loss = NTXent(temperature=0.5, negatives=Mixed(hardest=2, pairs=4, with_anchor=0))
    >>> bool(loss(z) > NTXent(temperature=0.5)(z))  # more negatives
    True
    """

    batches: Tensor

    def __init__(self, hardest: int = 64, pairs: int = 32, with_anchor: int = 8, seed: int = 1):
        super().__init__()
        for name, number, least in (("hardest", hardest, 1), ("pairs", pairs, 0), ("with_anchor", with_anchor, 0)):
            if not isinstance(number, int) or number < least:
                raise ValueError(f"negatives.{name} must be a whole number, at least {least}, got {number}")
        self.hardest, self.pairs, self.with_anchor, self.seed = hardest, pairs, with_anchor, seed
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._count = 0  # the same on the host, so that no step waits for a GPU

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._count = int(self.batches)

    def extra(self, block: LogitBlock) -> Tensor | None:
        assert block.anchors is not None, "losses pass the embeddings"
        assert block.candidates is not None, "losses pass the embeddings"
        available = min(self.hardest, block.logits.shape[1])
        if available == 0 or self.pairs + self.with_anchor == 0:
            return None
        draws = seeding.generator(self.seed, seeding.MIXTURES, self._count)
        ranks = torch.randint(available, (2, self.pairs + self.with_anchor), generator=draws)
        share = torch.rand(self.pairs + self.with_anchor, generator=draws, dtype=torch.float64)
        ranks = ranks.to(block.logits.device, non_blocking=True)
        share = share.to(block.logits, non_blocking=True)
        values, hardest = negatives_only(block).topk(available, dim=1)  # (m, N)
        real = torch.isfinite(values)  # an anchor may have fewer negatives
        first, second = ranks[0], ranks[1, : self.pairs]
        usable = real[:, first]
        usable[:, : self.pairs] &= real[:, second]
        mixtures = self._mixtures(block.anchors, block.candidates, hardest[:, first], hardest[:, second], share)
        logits = (block.anchors[:, None] * mixtures).sum(-1) * block.scale
        return logits.masked_fill(~usable, -torch.inf)

    @torch.no_grad()
    def _mixtures(self, anchors: Tensor, candidates: Tensor, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        """(m, s + s', D), in place: at the paper's sizes one such tensor is larger than all logits."""
        mixtures, share, s = candidates[first], share[:, None], self.pairs
        mixtures[:, :s].mul_(share[:s]).add_(candidates[second].mul_(1 - share[:s]))
        mixtures[:, s:].mul_(1 - 0.5 * share[s:]).add_(0.5 * share[s:] * anchors[:, None])
        return F.normalize(mixtures, dim=-1, eps=1e-6)

    def extra_elements(self, dim: int) -> int:
        return (self.pairs + self.with_anchor) * (2 * dim + 8)  # two copies at once, and a column each

    def advance(self) -> None:
        self.batches += 1
        self._count += 1
