"""Sums over pairs, weighed by the strategy."""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from repel.losses.tiles import TiledLoss
from repel.negatives.strategy import LogitBlock

__all__ = ["PairLoss"]


class PairLoss(TiledLoss):
    """attract(positive), mean over an anchor's positives, plus repel(negative), weighed over its negatives.

    The weights e^w are normalised to sum to 1, so that with `uniform` negatives count with their mean and with
    `hardest` the most similar one alone. An anchor without negatives is attracted only.
    """

    takes_correction, tiled = False, True
    normalized = True  # False: weights e^w as they are

    @abstractmethod
    def attract(self, positive: Tensor, scale: float | Tensor) -> Tensor:
        """Losses of positives from their logits (m, P)."""

    @abstractmethod
    def repel(self, negative: Tensor, positive: Tensor, scale: float | Tensor) -> Tensor:
        """Losses of candidates from their logits (m, n), beside one positive's, (m, 1)."""

    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor) -> Tensor:
        block = self.negatives.weigh(block)
        w = block.logits.new_zeros(()) if block.weights is None else block.weights
        w = w.expand_as(block.logits).masked_fill(~block.negative, -torch.inf)
        if self.normalized:
            empty = ~block.negative.any(1, keepdim=True)
            share = w.masked_fill(empty, 0).softmax(1).masked_fill(empty, 0)
        else:
            share = w.exp()
        total = self.attract(positives, block.scale)
        repelled = [(share * self.repel(block.logits, p[:, None], block.scale)).sum(1) for p in positives.unbind(1)]
        return (total + torch.stack(repelled, dim=1)).mean(1)

    def tile_terms(self, block: LogitBlock, positives: Tensor) -> list[Tensor]:
        narrowed, weights, terms = self.negatives.narrow_tile(block)
        negative = narrowed.negative
        w = block.logits.new_zeros(()) if weights is None else weights
        w = w.expand_as(block.logits).masked_fill(~negative, -torch.inf)
        empty = ~negative.any(1, keepdim=True)
        share = w.masked_fill(empty, 0).softmax(1).masked_fill(empty, 0)
        repelled = [(share * self.repel(block.logits, p[:, None], block.scale)).sum(1) for p in positives.unbind(1)]
        return [w.logsumexp(1), *repelled, *terms]

    def from_tiles(self, terms: Iterator[Tensor], block: LogitBlock, positives: Tensor) -> Tensor:
        w = next(terms)  # (T, m), the log of the sum of e^w in each part
        repelled = torch.stack([next(terms) for _ in positives.unbind(1)])  # (P, T, m), the mean in each part
        weight = self.negatives.row_weight(terms)
        if self.normalized:
            empty = (w == -torch.inf).all(0)
            share = w.masked_fill(empty, 0).softmax(0).masked_fill(empty, 0)
        else:
            share = (w if weight is None else w + weight).exp()
        return (self.attract(positives, block.scale) + (share * repelled).sum(1).T).mean(1)
