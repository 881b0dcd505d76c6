"""Strategies that weigh all negatives, by similarity or by a prior on how many of them are none."""

import math

import torch
from torch import Tensor, nn

from repel.negatives.strategy import Rows, Strategy, masked


class Tilt(Strategy):
    """Weights that grow with similarity, w_ij = beta * l_ij - norm_i: the dial from soft to hard.

    Args:
        beta: 0 weighs all the same; the larger, the more the hardest count.
        norm: `mean`: the mean weight is 1, which is HCL's reweighting (Robinson et al. 2021, arXiv:2010.04592, eq. 4).
            `max`: the largest weight is 1; beta = 0 is uniform and beta -> infinity the hardest alone, exactly.
        detach: no gradient through the weights. The authors' code lets it through; without it the gradient is that of
            InfoNCE with a temperature of t / (1 + beta) for the negatives.
    """

    def __init__(self, beta: float, norm: str, detach: bool):
        super().__init__()
        if not 0 <= beta < math.inf:
            raise ValueError(f"negatives.beta must be >= 0 and finite (negatives=hardest is its limit), got {beta}")
        if norm not in ("mean", "max"):
            raise ValueError(f"negatives.norm must be mean or max, got {norm!r}")
        self.beta, self.norm, self.detach = beta, norm, detach

    def weights(self, rows: Rows) -> Tensor:
        logits = rows.logits.detach() if self.detach else rows.logits
        tilted = self.beta * logits
        among = tilted.masked_fill(~rows.negative, -torch.inf)
        if self.norm == "max":
            return tilted - among.amax(1, keepdim=True)
        return tilted - among.logsumexp(1, keepdim=True) + log_count(rows)[:, None]


class Debiased(Strategy):
    """Take out of Z what a share tau_plus of unnoticed positives adds to it.

        Z <- max( (Z - n tau e^{l_p}) / (1 - tau), n e^{-1/t} )

    Chuang, Robinson, Lin, Torralba, Jegelka 2020, arXiv:2007.00224, eq. 7 and 8, with one positive. In the log domain,
    so that it is finite at every temperature. Where the floor holds, negatives have no gradient.

    Args:
        tau_plus: prior probability that a negative is of the anchor's class, in [0, 1).
    """

    corrects = True

    def __init__(self, tau_plus: float):
        super().__init__()
        if not 0 <= tau_plus < 1:
            raise ValueError(f"negatives.tau_plus must be in [0, 1), got {tau_plus}")
        self.tau_plus = tau_plus
        self.clamped, self.blocks = torch.zeros(()), 0  # shares of anchors at the floor, summed since statistics()

    def correct(self, log_z: Tensor, rows: Rows) -> Tensor:
        if self.tau_plus == 0:
            return log_z
        log_n = log_count(rows)
        share = rows.positive + log_n + math.log(self.tau_plus) - log_z  # log of what is taken out, relative to Z
        inside = share < 0
        # where nothing would be left, a harmless value in its place keeps NaN out of the gradient
        safe = torch.where(inside, share, -torch.ones_like(share))
        estimate = log_z + torch.log(-torch.expm1(safe)) - math.log1p(-self.tau_plus)
        floor = log_n - rows.scale
        above = inside & (estimate > floor)
        if self.training:
            self.clamped, self.blocks = self.clamped.to(floor) + 1 - above.to(floor).mean(), self.blocks + 1
        return torch.where(above, estimate, floor)

    def statistics(self) -> dict[str, Tensor]:
        if self.tau_plus == 0 or self.blocks == 0:
            return {}
        share = self.clamped / self.blocks
        self.clamped, self.blocks = torch.zeros(()), 0
        return {"negatives/clamped_fraction": share}


class Chain(Strategy):
    """Several strategies in turn: log-weights add up, later ones see as negatives what earlier ones keep."""

    def __init__(self, strategies: list[nn.Module]):
        super().__init__()
        if not strategies:
            raise ValueError("negatives.strategies needs at least one strategy")
        self.strategies = nn.ModuleList(strategies)
        self.supervised = any(strategy.supervised for strategy in strategies)
        self.corrects = any(strategy.corrects for strategy in strategies)

    def weights(self, rows: Rows) -> Tensor | None:
        total = None
        for strategy in self.strategies:
            weights = strategy.weights(rows)
            rows = masked(rows, weights)
            if weights is not None:
                total = weights if total is None else total + weights
        return total

    def extra(self, rows: Rows) -> Tensor | None:
        extras = []
        for strategy in self.strategies:
            extras.append(strategy.extra(rows))
            rows = masked(rows, strategy.weights(rows))
        extras = [extra for extra in extras if extra is not None]
        return torch.cat(extras, dim=1) if extras else None

    def correct(self, log_z: Tensor, rows: Rows) -> Tensor:
        for strategy in self.strategies:
            log_z = strategy.correct(log_z, rows)
        return log_z

    def advance(self) -> None:
        for strategy in self.strategies:
            strategy.advance()

    def statistics(self) -> dict[str, Tensor]:
        return {name: value for strategy in self.strategies for name, value in strategy.statistics().items()}


class HCL(Chain):
    """Tilt by importance, then debiasing (Robinson, Chuang, Sra, Jegelka 2021, arXiv:2010.04592, eq. 4 and 5).

    Value and gradient are those of the authors' released code, which lets the gradient through the weights.
    """

    def __init__(self, beta: float, tau_plus: float, detach: bool):
        super().__init__([Tilt(beta, "mean", detach), Debiased(tau_plus)])

    # by their names in the config too, so that they can be annealed
    beta = property(lambda self: self.strategies[0].beta, lambda self, beta: setattr(self.strategies[0], "beta", beta))
    tau_plus = property(
        lambda self: self.strategies[1].tau_plus, lambda self, tau: setattr(self.strategies[1], "tau_plus", tau)
    )


def log_count(rows: Rows) -> Tensor:
    """log n of each anchor's negatives, (m,), in the logits' precision (the log of an integer tensor is float32)."""
    return rows.negative.sum(1).to(rows.logits.dtype).log()
