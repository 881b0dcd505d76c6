"""Geometry of embeddings on the unit sphere, and statistics of an anchor's negatives: plain functions of tensors.

Functions of embeddings take any precision and compute in float32 at least.
"""

import itertools

import torch
from torch import Tensor

from repel.losses.base import unit

__all__ = [
    "DEAD_THRESHOLD",
    "alignment",
    "dead_dimensions",
    "deviation",
    "effective_number",
    "effective_rank",
    "effective_sample_size",
    "false_mass",
    "false_rate",
    "hardest_false_rate",
    "margins",
    "share_of_hardest",
    "shares",
    "tolerance",
    "uniformity",
]

DEAD_THRESHOLD = 1e-3  # a dimension is dead whose deviation is at most this part of the largest one's

# ------------------------------------------------------------------------------------------------------- embeddings


def alignment(z: Tensor) -> Tensor:
    """Mean squared distance between the views of a sample, on the sphere: E ||z - z'||^2 = 2 - 2 E[cos].

    Wang, Isola 2020, arXiv:2005.10242, eq. 1 with alpha = 2. 0 where the views agree, 2 where they are orthogonal, at
    most 4.

    Args:
        z: (V, N, D), V >= 2, of any length.

    >>> alignment(torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]]))
    tensor(2.)
    """
    z = unit(z)
    return torch.stack([(a - b).square().sum(-1).mean() for a, b in itertools.combinations(z, 2)]).mean()


def uniformity(z: Tensor) -> Tensor:
    """log E exp(-2 ||z_i - z_j||^2) over pairs of different samples, on the sphere: the lower, the more spread out.

    Wang, Isola 2020, arXiv:2005.10242, eq. 2 with t = 2. 0 where all are equal, -4 + 8 / D or a little above for D
    dimensions that are filled evenly (to second order in 1 / D), never below -8.

    Args:
        z: (M, D) of M >= 2 samples, of any length.

    >>> uniformity(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    tensor(0.)
    """
    z = unit(z)
    i, j = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    exponent = (4 * (z @ z.T) - 4)[i, j]  # -2 ||a - b||^2 = 4 cos - 4
    return exponent.logsumexp(0) - torch.tensor(float(len(i)), device=z.device).log()


def effective_rank(x: Tensor) -> Tensor:
    """Number of dimensions in use: exp of the entropy of p = sigma / sum(sigma), sigma the singular values.

    Roy, Vetterli 2007 (EUSIPCO); as RankMe, Garrido, Balestriero, Najman, LeCun 2023, arXiv:2210.02885, eq. 1. In
    [1, min(M, D)]: 1 where all are multiples of one vector, min(M, D) where no direction is preferred, and 0 where all
    are 0. The scale does not matter. M samples show at most M dimensions, so compare values of the same M only.

    Args:
        x: (M, D), not centered, as in RankMe.

    >>> round(float(effective_rank(torch.eye(3))), 4)
    3.0
    """
    x = x.double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x  # whose eigenvalues are sigma^2, and which is smaller
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny)
    return torch.special.entr(p).sum().exp() * (sigma.sum() > 0)


def deviation(z: Tensor) -> Tensor:
    """Standard deviation of each dimension of unit vectors, times sqrt(D): (D,).

    Chen, He 2021 (SimSiam), arXiv:2011.10566, sec. 4.1 and fig. 2. Its root mean square is 1 where the vectors' mean is
    0, and 0 where all are equal; a dimension at 0 carries no information.

    Args:
        z: (M, D), of any length.

    >>> deviation(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([0., 0.])
    """
    z = unit(z)
    return z.std(0, unbiased=False) * z.shape[1] ** 0.5


def dead_dimensions(x: Tensor, threshold: float = DEAD_THRESHOLD) -> Tensor:
    """Share of dimensions whose deviation is at most `threshold` times the largest one's. 1 where none varies.

    Args:
        x: (M, D), of any scale.
        threshold: in (0, 1).

    >>> dead_dimensions(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
    tensor(0.5000)
    """
    spread = (x.double() if x.dtype == torch.float64 else x.float()).std(0, unbiased=False)
    return (spread <= threshold * spread.max()).float().mean()


def tolerance(z: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine of different samples of the same class, in [-1, 1]; NaN without such a pair.

    Wang, Liu 2021, arXiv:2012.09740, eq. 7.

    Args:
        z: (M, D), of any length.
        labels: (M,), -1 where unknown.

    >>> tolerance(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor(1.)
    """
    z = unit(z)
    mates = (labels[:, None] == labels) & (labels >= 0)
    mates.fill_diagonal_(False)
    return (z @ z.T)[mates].mean()


# ----------------------------------------------------------------------------------------- anchors and their negatives


def margins(positive: Tensor, negative: Tensor, exists: Tensor) -> Tensor:
    """m_i = s_p - max over negatives of s_n, (m,), a cosine; below 0 a negative is closer than the positive.

    The share of m_i < 0 is the violation rate, 1 minus the accuracy of telling the positive from the negatives. Anchors
    without negatives get infinity.

    Args:
        positive: (m,) cosines.
        negative: (m, n) cosines.
        exists: (m, n) bool, which of them are negatives.
    """
    return positive - negative.masked_fill(~exists, -torch.inf).amax(1)


def shares(weight: Tensor) -> Tensor:
    """Rows of weights >= 0 as shares that sum to 1, (m, n); a row of zeros stays one."""
    return weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def effective_number(share: Tensor) -> Tensor:
    """Number of negatives that act on an anchor, (m,): exp of their shares' entropy, n where all weigh the same.

    Args:
        share: (m, n), rows sum to 1.
    """
    return torch.special.entr(share).sum(1).exp()


def effective_sample_size(share: Tensor) -> Tensor:
    """The same by Kish 1965, 1 / sum p^2, (m,): many small shares count less than in effective_number."""
    return 1 / share.square().sum(1).clamp(min=torch.finfo(share.dtype).tiny)


def share_of_hardest(share: Tensor, negative: Tensor, exists: Tensor, fraction: float) -> Tensor:
    """Share of the weights that the most similar `fraction` of the negatives, at least one, have: (m,), in [0, 1].

    Args:
        share: (m, n), rows sum to 1.
        negative, exists: (m, n), the cosines, and which of them are negatives.
        fraction: in (0, 1].
    """
    among = negative.masked_fill(~exists, -torch.inf)
    hardest = among.topk(max(1, -int(-fraction * negative.shape[1] // 1)), dim=1).indices
    allowed = (fraction * exists.sum(1, keepdim=True)).ceil()
    rank = torch.arange(hardest.shape[1], device=share.device)
    return (share.gather(1, hardest) * (rank < allowed)).sum(1)


def false_rate(mates: Tensor, exists: Tensor) -> Tensor:
    """Share of negatives that belong to their anchor's class: the prior tau_plus of debiasing, measured.

    Args:
        mates: (m, n) bool, candidates of the anchor's class.
        exists: (m, n) bool, which candidates are negatives.
    """
    return (mates & exists).sum() / exists.sum().clamp(min=1)


def hardest_false_rate(mates: Tensor, negative: Tensor, exists: Tensor) -> Tensor:
    """Share of anchors whose most similar negative belongs to their own class; arguments as above."""
    hardest = negative.masked_fill(~exists, -torch.inf).argmax(1, keepdim=True)
    return (mates & exists).gather(1, hardest).float().mean()


def false_mass(share: Tensor, mates: Tensor) -> Tensor:
    """Share of an anchor's weights on candidates of its own class, (m,): repulsion within the class."""
    return (share * mates).sum(1)
