"""Losses whose candidates need not be together: terms of parts of them, from which each anchor's loss is made."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from repel.losses.rowwise import RowwiseLoss
from repel.negatives.log_sums import logsumexp_of_parts
from repel.negatives.strategy import LogitBlock, MaskedLogSumExp

__all__ = ["LogZLoss", "TiledLoss"]


class TiledLoss(RowwiseLoss):
    """A row-wise loss that can see its candidates a part at a time, which ring.py passes from rank to rank."""

    tiled = True  # a subclass that overrides how anchors, candidates or losses are made is not, unless it says so

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        made = {"losses", "anchor_groups", "candidates_of", "logit_block", "per_anchor"} & vars(cls).keys()
        if made and "tiled" not in vars(cls):
            cls.tiled = False

    @abstractmethod
    def tile_terms(self, block: LogitBlock, positives: Tensor) -> list[Tensor]:
        """Of anchors against a part of their candidates, before the strategy: terms (m,) each."""

    @abstractmethod
    def from_tiles(self, terms: Iterator[Tensor], block: LogitBlock, positives: Tensor) -> Tensor:
        """Losses (m,) from these terms, each (T, m) of all T parts. `block` has no candidates."""


class LogZLoss(TiledLoss):
    """A mean over anchors of a function of log Z and the positives."""

    @abstractmethod
    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor, log_z: Tensor | None = None) -> Tensor:
        """See RowwiseLoss. log_z: (m,) where it is known already; the block then has no candidates."""

    def tile_terms(self, block: LogitBlock, positives: Tensor) -> list[Tensor]:
        narrowed, weights, terms = self.negatives.narrow_tile(block)
        weighted = block.logits
        if weights is not None:  # finite everywhere, as in Strategy.weigh
            weighted = weighted + weights.masked_fill(~narrowed.negative, 0)
        log_z = MaskedLogSumExp.apply(weighted, narrowed.negative)
        return [log_z, narrowed.negative.sum(1), *terms]

    def from_tiles(self, terms: Iterator[Tensor], block: LogitBlock, positives: Tensor) -> Tensor:
        log_z, number = logsumexp_of_parts(next(terms)), next(terms).sum(0)
        weight = self.negatives.row_weight(terms)
        if weight is not None:
            log_z = log_z + weight
        return self.per_anchor(block, positives, positives, self.negatives.correct_total(log_z, number, block))
