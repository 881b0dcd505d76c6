"""Losses that are sums over pairs: each positive attracts, each negative repels by itself, weighed by the strategy."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.losses.base import Dims
from repel.losses.pair_sums import PairLoss
from repel.losses.queue import Queue
from repel.losses.rowwise import CandidateSet, RowChunk, RowwiseLoss
from repel.losses.tiles import LogZLoss
from repel.negatives.strategy import LogitBlock, Strategy


class Triplet(PairLoss):
    """The negative should be less similar than the positive, by a margin.

        L_i = mean over negatives n of relu( margin + s_in - s_ip )            hinge
        L_i = mean over negatives n of t softplus( (margin + s_in - s_ip) / t ) soft: the hinge as t -> 0

    Weinberger, Saul 2009; Schroff, Kalenichenko, Philbin 2015 (FaceNet), arXiv:1503.03832, eq. 2, for cosines;
    negatives=hardest is batch hard and its soft margin, Hermans, Beyer, Leibe 2017, arXiv:1703.07737, sec. 2.
    For `hinge` the temperature only sets the units in which strategies see similarities; `soft` falls with it, so that
    a learned one ends at its lowest.

    Args:
        margin: in units of the cosine, >= 0.
        link: hinge or soft.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(Triplet(margin=0.2)(z).item(), 4)
    0.1
    """

    def __init__(
        self, margin: float = 0.2, link: Literal["hinge", "soft"] = "hinge", *,
        temperature: float = 0.2, learn_temperature: bool = False,
        candidates: CandidateSet = "all", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        _check_margins(margin=margin)
        if link not in ("hinge", "soft"):
            raise ValueError(f"loss.link must be hinge or soft, got {link!r}")
        if link == "hinge" and self.log_factor is not None:
            raise ValueError("loss.learn_temperature=true: a hinge has no temperature to learn; set loss.link=soft")
        self.margin, self.link = margin, link

    def attract(self, positive: Tensor, scale: float | Tensor) -> Tensor:
        return torch.zeros_like(positive)

    def repel(self, negative: Tensor, positive: Tensor, scale: float | Tensor) -> Tensor:
        x = negative - positive + self.margin * scale
        return (x.relu() if self.link == "hinge" else F.softplus(x)) / scale


class MarginCosine(PairLoss):
    """Positives are pulled up to one cosine, negatives pushed down to another.

        L_i = relu( positive_margin - s_ip )^q + weight * mean over negatives n of relu( s_in - negative_margin )^q

    Hadsell, Chopra, LeCun 2006 (contrastive loss), eq. 4, for cosines. q = 1 and positive_margin = 1 is
    torch.nn.CosineEmbeddingLoss(margin=negative_margin), pair by pair, and the cosine contrastive loss of SimpleX (Mao
    et al. 2021, arXiv:2109.12613), whose w is `weight`.

    Args:
        positive_margin, negative_margin: cosines.
        power: q, 1 or 2.
        weight: of the negatives, > 0.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(MarginCosine(negative_margin=0.2)(z).item(), 4)
    0.5
    """

    def __init__(
        self, positive_margin: float = 1.0, negative_margin: float = 0.2, power: Literal[1, 2] = 1,
        weight: float = 1.0, *, temperature: float = 0.2, learn_temperature: bool = False,
        candidates: CandidateSet = "all", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        _check_margins(positive_margin=positive_margin, negative_margin=negative_margin)
        if power not in (1, 2):
            raise ValueError(f"loss.power must be 1 or 2, got {power}")
        if not weight > 0:
            raise ValueError(f"loss.weight must be > 0, got {weight}")
        _refuse_learning(self)
        self.positive_margin, self.negative_margin = positive_margin, negative_margin
        self.power, self.weight = power, weight

    def attract(self, positive: Tensor, scale: float | Tensor) -> Tensor:
        return (self.positive_margin - positive / scale).relu() ** self.power

    def repel(self, negative: Tensor, positive: Tensor, scale: float | Tensor) -> Tensor:
        return self.weight * (negative / scale - self.negative_margin).relu() ** self.power


class CosineRegression(PairLoss):
    """The founding text's margin loss 0.5 c^2 - m y c, of a pair's cosine c, y = 1 for positives and 0 for negatives.

        0.5 c^2 - m y c = 0.5 (c - m y)^2 - 0.5 m^2 y^2

    So it is no hinge but regresses cosines, positives' to m and negatives' to 0; a positive that is closer than m is
    pushed away, so m = 1 pulls fully. The constant is added back here, so that 0 is the best value. (The text's code
    calls cosine_similarity with one argument and does not run.) With negatives=hardest it is that text's hard-negative
    learning: for each positive the single most similar negative.

    Args:
        margin: m, a cosine.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(CosineRegression()(z).item(), 4)
    0.2
    """

    def __init__(
        self, margin: float = 1.0, *, temperature: float = 0.2, learn_temperature: bool = False,
        candidates: CandidateSet = "all", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        _check_margins(margin=margin)
        _refuse_learning(self)
        self.margin = margin

    def attract(self, positive: Tensor, scale: float | Tensor) -> Tensor:
        return 0.5 * (positive / scale - self.margin) ** 2

    def repel(self, negative: Tensor, positive: Tensor, scale: float | Tensor) -> Tensor:
        return 0.5 * (negative / scale) ** 2


class SigLIP(PairLoss):
    """Every pair is a binary decision of its own; nothing is normalised over the batch.

        L_i = softplus( -(l_ip + b) ) + sum over negatives n of softplus( l_in + b )

    Zhai, Mustafa, Kolesnikov, Beyer 2023, arXiv:2303.15343, eq. 1 and sec. 3.2: t = 0.1 and b = -10 at the start, both
    learned. Summed over negatives, as there: weights are e^w as they are.

    Args:
        bias: b at the start.
        learn_bias: learn it from there.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(SigLIP()(z).item(), 4)
    2.4191
    """

    normalized = False

    def __init__(
        self, bias: float = -10.0, learn_bias: bool = True, *, temperature: float = 0.1, learn_temperature: bool = True,
        candidates: CandidateSet = "cross", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        self.bias = nn.Parameter(torch.tensor(float(bias))) if learn_bias else bias

    def attract(self, positive: Tensor, scale: float | Tensor) -> Tensor:
        return F.softplus(-(positive + self.bias))

    def repel(self, negative: Tensor, positive: Tensor, scale: float | Tensor) -> Tensor:
        return F.softplus(negative + self.bias)


class MultiSimilarity(LogZLoss):
    """Soft-weighed pairs around a threshold, positives and negatives each by their own softness.

        L_i = 1/alpha log( 1 + sum_p e^{-alpha (s_ip - lambda)} ) + 1/beta log( 1 + sum_n e^{beta (s_in - lambda)} )

    Wang, Han, Huang, Dong, Scott 2019, arXiv:1904.06627, eq. 15, without its mining, which is the strategy's work.
    beta is 1 / temperature. The loss falls with it, so that a learned one ends at its lowest.

    Args:
        alpha: > 0.
        threshold: lambda, a cosine.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(MultiSimilarity()(z).item(), 4)
    0.4563
    """

    tiled = True

    def __init__(
        self, alpha: float = 2.0, threshold: float = 0.5, *, temperature: float = 0.02, learn_temperature: bool = False,
        candidates: CandidateSet = "all", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        if not alpha > 0:
            raise ValueError(f"loss.alpha must be > 0, got {alpha}")
        _check_margins(threshold=threshold)
        self.alpha, self.threshold = alpha, threshold

    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor, log_z: Tensor | None = None) -> Tensor:
        pull = (-self.alpha * (positives / block.scale - self.threshold)).logsumexp(1)
        log_z = self.negatives.log_z(self.negatives.weigh(block)) if log_z is None else log_z
        empty = log_z == -torch.inf
        push = F.softplus(log_z.masked_fill(empty, 0) - self.threshold * block.scale).masked_fill(empty, 0)
        return F.softplus(pull) / self.alpha + push / block.scale


def _check_margins(**cosines: float) -> None:
    for name, value in cosines.items():
        if not -1 <= value <= 1:
            raise ValueError(f"loss.{name} is in units of the cosine and must be in [-1, 1], got {value}")


def _refuse_learning(loss: RowwiseLoss) -> None:
    if loss.log_factor is not None:
        raise ValueError(f"loss.learn_temperature=true: {type(loss).__name__} has no temperature to learn")
