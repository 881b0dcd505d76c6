"""Losses without negatives, of the batch's moments. They see all ranks' samples, so every rank computes the whole."""

import itertools
from abc import abstractmethod

import torch
from torch import Tensor

from repel.losses.base import Batch, Loss


class MomentLoss(Loss):
    """Mean over the pairs of views of a loss of two views' embeddings; a subclass defines `pair_loss`.

    Embeddings are not normalized. No sample is repelled, so ids do not matter; explicit negatives are refused.
    """

    normalizes = False

    def losses(self, batch: Batch) -> Tensor:
        if batch.keys is batch.z:
            pairs = list(itertools.combinations(batch.z, 2))
        else:
            pairs = [(a, b) for i, a in enumerate(batch.z) for j, b in enumerate(batch.keys) if i != j]
        return torch.stack([self.pair_loss(a, b) for a, b in pairs]).mean()

    @abstractmethod
    def pair_loss(self, a: Tensor, b: Tensor) -> Tensor:
        """The loss of two views' embeddings, (N, D) each."""


class BarlowTwins(MomentLoss):
    """The cross-correlation of two views' dimensions should be the identity.

        L = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2

    Zbontar, Jing, Misra, LeCun, Deny 2021, arXiv:2103.03230, eq. 1 and 2. Value D when all embeddings are equal.

    Args:
        redundancy: lambda > 0.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(BarlowTwins()(z).item(), 4)
    0.01
    """

    def __init__(self, redundancy: float = 5e-3):
        super().__init__()
        if not redundancy > 0:
            raise ValueError(f"loss.redundancy must be > 0, got {redundancy}")
        self.redundancy = redundancy

    def pair_loss(self, a: Tensor, b: Tensor) -> Tensor:
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

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(VICReg()(z).item(), 4)
    30.4972
    """

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0):
        super().__init__()
        for name, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
            if not value >= 0:
                raise ValueError(f"loss.{name} must be >= 0, got {value}")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def pair_loss(self, a: Tensor, b: Tensor) -> Tensor:
        total = self.invariance * (a - b).square().mean()
        for x in (a, b):
            x = x - x.mean(0)
            spread = (1 - (x.var(0) + 1e-4).sqrt()).relu().mean()
            cov = x.T @ x / (len(x) - 1)
            off = (cov.square().sum() - torch.diagonal(cov).square().sum()) / x.shape[1]
            total = total + self.variance * spread + self.covariance * off
        return total
