"""Strategies that weigh all negatives by similarity; and several strategies in turn."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from repel.negatives.debiased import Debiased
from repel.negatives.log_sums import log_count, logsumexp_of_parts
from repel.negatives.strategy import (
    ExplicitNegatives,
    LogitBlock,
    MaskedLogSumExp,
    Strategy,
    check_explicit,
    own_explicit,
)


class Tilt(Strategy):
    """Weights that grow with similarity, w_ij = beta * l_ij - norm_i: the dial from soft to hard.

    Args:
        beta: 0 weighs all the same; the larger, the more the hardest count.
        norm: `mean`: the mean weight is 1, which is HCL's reweighting (Robinson et al. 2021, arXiv:2010.04592, eq. 4).
            `max`: the largest weight is 1; beta = 0 is uniform and beta -> infinity the hardest alone, exactly.
            `none`: norm_i = 0, so that hard negatives also weigh more against the positive: with detach=True the
            hardness weighting of Lan et al. 2025, arXiv:2503.04812, eq. 5, w_ij = alpha s_ij, where beta = alpha t;
            alpha = 9 there, 5 in arXiv:2509.20354.
        detach: no gradient through the weights. The authors' code of HCL lets it through; without it the gradient is
            that of InfoNCE with a temperature of t / (1 + beta) for the negatives.
        scope: which negatives are weighed, with norm=none: `all`; `own`: explicit negatives of the anchor's own sample;
            `others`: all but these. (hardness_mode of sentence-transformers: all_negatives, hard_negatives,
            in_batch_negatives.)

    Raises:
        ValueError: beta, norm or scope is out of its range; or the data brings no explicit negatives for scope=own.

    >>> block = LogitBlock(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([2.0]), torch.ones(1, 3).bool(), 2.0)
    >>> Tilt(beta=2.0).weights(block)
    tensor([[ 0., -2., -4.]])
    """

    tilewise = True

    def __init__(
        self, beta: float = 1.0, norm: Literal["mean", "max", "none"] = "max", detach: bool = False,
        scope: Literal["all", "own", "others"] = "all",
    ):  # fmt: skip
        super().__init__()
        if not 0 <= beta < math.inf:
            raise ValueError(f"negatives.beta must be >= 0 and finite (negatives=hardest is its limit), got {beta}")
        if norm not in ("mean", "max", "none"):
            raise ValueError(f"negatives.norm must be mean, max or none, got {norm!r}")
        if scope not in ("all", "own", "others"):
            raise ValueError(f"negatives.scope must be all, own or others, got {scope!r}")
        if scope != "all" and norm != "none":
            raise ValueError(f"negatives.scope={scope} weighs a part of the negatives: set negatives.norm=none")
        self.beta, self.norm, self.detach, self.scope = beta, norm, detach, scope

    def on_data(self, info: ExplicitNegatives) -> None:
        if self.scope == "own":
            check_explicit(info, "negatives.scope=own")

    def weights(self, block: LogitBlock) -> Tensor:
        logits = block.logits.detach() if self.detach else block.logits
        tilted = self.beta * logits
        if self.norm == "none":
            if self.scope == "all":
                return tilted
            own = own_explicit(block)
            return tilted.masked_fill(~own if self.scope == "own" else own, 0)
        if self.norm == "max":
            return tilted - tilted.masked_fill(~block.negative, -torch.inf).amax(1, keepdim=True)
        number = log_count(block.negative.sum(1), block.logits)
        return tilted - MaskedLogSumExp.apply(tilted, block.negative)[:, None] + number[:, None]

    def narrow_tile(self, block: LogitBlock) -> tuple[LogitBlock, Tensor | None, list[Tensor]]:
        if self.norm == "none":
            return block, self.weights(block), []
        tilted = self.beta * (block.logits.detach() if self.detach else block.logits)
        if self.norm == "max":
            return block, tilted, [tilted.masked_fill(~block.negative, -torch.inf).amax(1)]
        return block, tilted, [MaskedLogSumExp.apply(tilted, block.negative), block.negative.sum(1)]

    def row_weight(self, terms: Iterator[Tensor]) -> Tensor | None:
        if self.norm == "none":
            return None
        if self.norm == "max":
            largest = next(terms).amax(0)
            return -largest.masked_fill(largest == -torch.inf, 0)
        total, number = logsumexp_of_parts(next(terms)), next(terms).sum(0)
        return number.clamp(min=1).log() - total.masked_fill(total == -torch.inf, 0)


class Chain(Strategy):
    """Several strategies in turn: log-weights add up, later ones see as negatives what earlier ones keep.

    Later ones also rank by what earlier ones left, corrections included: after `popularity` they see l + w in place of
    the logits l, so that `topk` keeps the highest corrected ones and `tilt` weighs by these. No other strategy corrects
    logits: after a tilt or another weighting, logits are what they were. What compares candidates with a cosine, such
    as `false_negatives`, goes before `popularity`.

    Args:
        strategies: at least one.

    Raises:
        ValueError: there is none.

    >>> from repel.negatives import FalseNegatives
    >>> chain = Chain([FalseNegatives(threshold=0.9), Tilt(beta=1.0)])
    >>> block = LogitBlock(torch.tensor([[1.9, 1.0, 0.0]]), torch.tensor([2.0]), torch.ones(1, 3).bool(), 2.0)
    >>> chain.weights(block)
    tensor([[-inf,  0., -1.]])
    """

    tilewise = True

    def __init__(self, strategies: Sequence[Strategy]):
        super().__init__()
        if not strategies:
            raise ValueError("negatives.strategies needs at least one strategy")
        self.strategies = nn.ModuleList(strategies)
        self.supervised = any(strategy.supervised for strategy in strategies)
        self.corrects = any(strategy.corrects for strategy in strategies)
        self.synthesizes = any(strategy.synthesizes for strategy in strategies)

    @property
    def members(self) -> list[Strategy]:
        """The strategies in their order."""
        return [strategy for strategy in self.strategies if isinstance(strategy, Strategy)]

    def narrow(self, block: LogitBlock) -> tuple[LogitBlock, Tensor | None]:
        total = None
        for strategy in self.members:
            block, weights = _passed_on(strategy, block)
            if weights is not None:
                total = weights if total is None else total + weights
        return block, total

    def keep(self, block: LogitBlock) -> Tensor:
        return self.narrow(block)[0].negative

    def weights(self, block: LogitBlock) -> Tensor | None:
        return self.narrow(block)[1]

    def extra(self, block: LogitBlock) -> Tensor | None:
        extras = []
        for strategy in self.members:
            extra = strategy.extra(block)
            extras += [] if extra is None else [extra]
            block, _ = _passed_on(strategy, block)
        return torch.cat(extras, dim=1) if extras else None

    def extra_elements(self, dim: int) -> int:
        return sum(strategy.extra_elements(dim) for strategy in self.members)

    def correct(self, log_z: Tensor, block: LogitBlock) -> Tensor:
        for strategy in self.members:
            log_z = strategy.correct(log_z, block)
        return log_z

    def needs_whole(self) -> Strategy | None:
        found = (whole for strategy in self.members if (whole := strategy.needs_whole()) is not None)
        return super().needs_whole() or next(found, None)

    def narrow_tile(self, block: LogitBlock) -> tuple[LogitBlock, Tensor | None, list[Tensor]]:
        total, found = None, []
        for strategy in self.members:
            block, weights, terms = strategy.narrow_tile(block)
            block = _adjusted(strategy, block, weights)
            found += terms
            if weights is not None:
                total = weights if total is None else total + weights
        return block, total, found

    def row_weight(self, terms: Iterator[Tensor]) -> Tensor | None:
        found = [c for strategy in self.members if (c := strategy.row_weight(terms)) is not None]
        return torch.stack(found).sum(0) if found else None

    def correct_total(self, log_z: Tensor, number: Tensor, block: LogitBlock) -> Tensor:
        for strategy in self.members:
            log_z = strategy.correct_total(log_z, number, block)
        return log_z

    def advance(self) -> None:
        for strategy in self.members:
            strategy.advance()

    def statistics(self) -> dict[str, Tensor]:
        return {name: value for strategy in self.members for name, value in strategy.statistics().items()}


class HCL(Chain):
    """Tilt by importance, then debiasing (Robinson, Chuang, Sra, Jegelka 2021, arXiv:2010.04592, eq. 4 and 5).

    Value and gradient are those of the authors' released code, which lets the gradient through the weights.

    Args:
        beta: concentration on the hardest, >= 0; 0.5 to 2 there, at a temperature of 0.5.
        tau_plus: prior probability that a negative is of the anchor's class, in [0, 1).
        detach: no gradient through the weights.

    >>> from repel.losses import NTXent
    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(NTXent(temperature=0.5, negatives=HCL(beta=1.0, tau_plus=0.1))(z).item(), 4)
    0.8079
    """

    def __init__(self, beta: float = 1.0, tau_plus: float = 0.1, detach: bool = False):
        super().__init__([Tilt(beta, "mean", detach), Debiased(tau_plus)])

    # by their names in the config too, so that they can be annealed
    beta = property(lambda self: self.strategies[0].beta, lambda self, beta: setattr(self.strategies[0], "beta", beta))
    tau_plus = property(
        lambda self: self.strategies[1].tau_plus, lambda self, tau: setattr(self.strategies[1], "tau_plus", tau)
    )


def _passed_on(strategy: Strategy, block: LogitBlock) -> tuple[LogitBlock, Tensor | None]:
    """The block as the next member of a chain sees it, and this one's log-weights."""
    block, weights = strategy.narrow(block)
    return _adjusted(strategy, block, weights), weights


def _adjusted(strategy: Strategy, block: LogitBlock, weights: Tensor | None) -> LogitBlock:
    return block._replace(logits=block.logits + weights) if strategy.adjusts and weights is not None else block
