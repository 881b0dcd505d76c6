"""A correction of log Z by the share of the negatives that are false."""

import math

import torch
from torch import Tensor

from repel.negatives.log_sums import log_count
from repel.negatives.strategy import LogitBlock, Strategy

__all__ = ["Debiased"]


class Debiased(Strategy):
    """Debiased estimator: subtracts the expected contribution of false negatives (class prior tau_plus) from Z.

        Z <- max( (Z - n tau mean_p e^{l_p}) / (1 - tau), n e^{-1/t} )

    Chuang, Robinson, Lin, Torralba, Jegelka 2020, arXiv:2007.00224, eq. 7 and 8, with the mean over an
    anchor's positives p, M of them there. In the log domain, so that it is finite at every temperature. Where the floor
    holds, negatives have no gradient.

    Args:
        tau_plus: prior probability that a negative is of the anchor's class, in [0, 1).

    Raises:
        ValueError: tau_plus is out of its range.

    >>> block = LogitBlock(torch.tensor([[2.0, 1.0]]), torch.tensor([2.0]), torch.ones(1, 2).bool(), scale=2.0)
    >>> log_z = Debiased(tau_plus=0.1).log_z(block)  # log((e^2 + e - 2 * 0.1 e^2) / 0.9)
    >>> round(log_z.item(), 4)
    2.2606
    """

    tilewise = True

    def __init__(self, tau_plus: float = 0.1):
        super().__init__()
        if not 0 <= tau_plus < 1:
            raise ValueError(f"negatives.tau_plus must be in [0, 1), got {tau_plus}")
        self.tau_plus = tau_plus
        self.clamped: Tensor | float = 0.0  # shares of anchors at the floor, summed over blocks since statistics()
        self.blocks = 0

    def correct(self, log_z: Tensor, block: LogitBlock) -> Tensor:
        return log_z if self.tau_plus == 0 else self.correct_total(log_z, block.negative.sum(1), block)

    def correct_total(self, log_z: Tensor, number: Tensor, block: LogitBlock) -> Tensor:
        if self.tau_plus == 0:
            return log_z
        log_n = log_count(number, block.logits)
        positive = block.positive
        if block.positives is not None:  # log of the mean of e^l
            positive = block.positives.logsumexp(1) - math.log(block.positives.shape[1])
        share = positive + log_n + math.log(self.tau_plus) - log_z  # log of what is subtracted, relative to Z
        inside = share < 0
        # where nothing would be left, a harmless value in its place keeps NaN out of the gradient
        safe = torch.where(inside, share, -torch.ones_like(share))
        estimate = log_z + torch.log(-torch.expm1(safe)) - math.log1p(-self.tau_plus)
        floor = log_n - block.scale
        above = inside & (estimate > floor)
        if self.training:
            self.clamped, self.blocks = self.clamped + 1 - above.to(floor).mean(), self.blocks + 1
        return torch.where(above, estimate, floor)

    def statistics(self) -> dict[str, Tensor]:
        if not isinstance(self.clamped, Tensor):
            return {}
        share = self.clamped / self.blocks
        self.clamped, self.blocks = 0.0, 0
        return {"negatives/clamped_fraction": share}
