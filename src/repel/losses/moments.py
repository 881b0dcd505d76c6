"""Losses without negatives, of the batch's moments. They see all ranks' samples, so every rank computes the whole."""

import itertools

import torch
from torch import Tensor

from repel.losses.base import Loss, check_views


class MomentLoss(Loss):
    """Mean over the pairs of views of a loss of two views' embeddings."""

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        local: slice = slice(None),
        target: Tensor | None = None,
    ) -> Tensor:
        check_views(z)
        with torch.autocast(z.device.type, enabled=False):
            z = z if z.dtype == torch.float64 else z.float()
            if target is None:
                pairs = itertools.combinations(z, 2)
            else:
                keys = target.detach().to(z.dtype)
                pairs = ((a, b) for i, a in enumerate(z) for j, b in enumerate(keys) if i != j)
            return torch.stack([self.of_pair(a, b) for a, b in pairs]).mean()


class BarlowTwins(MomentLoss):
    """The cross-correlation of two views' dimensions should be the identity.

        L = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2

    Zbontar, Jing, Misra, LeCun, Deny 2021, arXiv:2103.03230, eq. 1 and 2. Value D when all embeddings are equal.

    Args:
        redundancy: lambda > 0.
    """

    def __init__(self, redundancy: float):
        super().__init__()
        if not redundancy > 0:
            raise ValueError(f"loss.redundancy must be > 0, got {redundancy}")
        self.redundancy = redundancy

    def of_pair(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b))
        c = a.T @ b / len(a)
        on = torch.diagonal(c)
        return (1 - on).square().sum() + self.redundancy * (c.square().sum() - on.square().sum())


class VICReg(MomentLoss):
    """Invariance, variance of every dimension, no covariance between them.

        L = invariance mean||z - z'||^2 / D + variance [v(z) + v(z')] + covariance [c(z) + c(z')]
        v = mean_d relu( 1 - sqrt(var_d + 1e-4) ),   c = sum_{d != e} cov_de^2 / D

    Bardes, Ponce, LeCun 2022, arXiv:2105.04906, eq. 1 to 6. The paper adds up the views' variance terms, as here; the
    authors' code halves them.

    Args:
        invariance, variance, covariance: weights, >= 0.
    """

    def __init__(self, invariance: float, variance: float, covariance: float):
        super().__init__()
        for name, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
            if not value >= 0:
                raise ValueError(f"loss.{name} must be >= 0, got {value}")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def of_pair(self, a: Tensor, b: Tensor) -> Tensor:
        total = self.invariance * (a - b).square().mean()
        for x in (a, b):
            x = x - x.mean(0)
            spread = (1 - (x.var(0) + 1e-4).sqrt()).relu().mean()
            cov = x.T @ x / (len(x) - 1)
            off = (cov.square().sum() - torch.diagonal(cov).square().sum()) / x.shape[1]
            total = total + self.variance * spread + self.covariance * off
        return total
