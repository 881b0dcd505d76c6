"""Losses of the ratio between an anchor's positive and its negatives."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.losses.anchor_groups import AnchorGroup, of_other_views
from repel.losses.base import Batch, Dims
from repel.losses.queue import Queue
from repel.losses.rowwise import CandidateSet, RowChunk
from repel.losses.tiles import LogZLoss
from repel.negatives.strategy import LogitBlock, Strategy


class LogRatioLoss(LogZLoss):
    """A link between an anchor's log Z and each of its positives; with several positives, their mean.

    A subclass defines `link`; all other arguments are those of RowwiseLoss.

    >>> class Hinge(LogRatioLoss):
    ...     def link(self, log_z, positive):
    ...         return (log_z - positive).relu()
    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(Hinge(temperature=1.0)(z).item(), 4)
    0.3321
    """

    takes_own_only, tiled = True, True

    @abstractmethod
    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        """Losses from log Z (m, 1) and positive logits (m, P): (m, P)."""

    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor, log_z: Tensor | None = None) -> Tensor:
        log_z = (self.negatives.log_z(self.negatives.weigh(block)) if log_z is None else log_z)[:, None]
        empty = log_z == -torch.inf
        return self.link(log_z.masked_fill(empty, 0), positives).masked_fill(empty, 0).mean(1)


class InfoNCE(LogRatioLoss):
    """Cross-entropy of telling the positive from the negatives.

        L = mean_i [ -l_ip + log( e^{l_ip} + Z_i ) ] = mean_i softplus( log Z_i - l_ip )

    van den Oord, Li, Vinyals 2018, arXiv:1807.03748, eq. 4. By its candidates it is
    `cross`: the symmetric cross-view form of CLIP, Radford et al. 2021, arXiv:2103.00020, with N - 1 negatives;
    `all`: NT-Xent, with 2N - 2 negatives of both views;
    `queue`, with a target network: MoCo, He et al. 2020, arXiv:1911.05722, eq. 1.
    Value: log(1 + number of negatives) when all embeddings are equal. Arguments and errors are those of RowwiseLoss.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(InfoNCE(temperature=0.5)(z).item(), 4)
    0.4541
    """

    def __init__(
        self, temperature: float = 0.2, learn_temperature: bool = False, candidates: CandidateSet = "cross",
        symmetric: bool = True, negatives: Strategy | None = None, queue: Queue | None = None,
        row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)

    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        return F.softplus(log_z - positive)


class NTXent(InfoNCE):
    """InfoNCE against all views of the other samples, 2N - 2 negatives of both views: SimCLR's loss.

    Chen, Kornblith, Norouzi, Hinton 2020, arXiv:2002.05709, eq. 1; t = 0.5 there on CIFAR-10, 0.1 on ImageNet. The
    authors' TensorFlow code returns the sum of the two views' means, twice this. log(2N - 1) when all embeddings are
    equal. Arguments and errors are those of RowwiseLoss.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(NTXent(temperature=0.5)(z).item(), 4)
    0.7589
    """

    def __init__(
        self, temperature: float = 0.2, learn_temperature: bool = False, candidates: CandidateSet = "all",
        symmetric: bool = True, negatives: Strategy | None = None, queue: Queue | None = None,
        row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)


class Decoupled(LogRatioLoss):
    """InfoNCE without the positive in the denominator: L = mean_i ( log Z_i - l_ip ). It may be negative.

    Yeh, Hong, Hsu, Liu, Chen, LeCun 2022 (decoupled contrastive learning), arXiv:2110.06848, eq. 6. Its gradient is
    InfoNCE's without the factor 1 - p_i that fades when the positive is found. Often called DCL, as is debiasing.
    Without a least value it has no best temperature: a learned one ends at its lowest where positives are found, and at
    its highest where they are not.
    Arguments and errors are those of RowwiseLoss.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(Decoupled(temperature=0.5)(z).item(), 4)
    0.0385
    """

    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        return log_z - positive


class DecoupledWeighted(Decoupled):
    """Decoupled, with more weight on positives that are far apart: L = mean_i ( log Z_i - w_i l_ip ).

        w_i = 2 - N softmax_i( s_ip / sigma ), over the N pairs of two views, without gradient; its mean is 1

    Yeh et al. 2022, arXiv:2110.06848, sec. 3.2. The softmax goes over all ranks' samples.

    Args:
        sigma: its temperature, > 0.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(DecoupledWeighted(sigma=0.5, temperature=0.5)(z).item(), 4)
    0.1905
    """

    takes_crops, weighs_alike = False, True

    def __init__(
        self, sigma: float = 0.5, *, temperature: float = 0.2, learn_temperature: bool = False,
        candidates: CandidateSet = "all", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        if not sigma > 0:
            raise ValueError(f"loss.sigma must be > 0, got {sigma}")
        self.sigma = sigma

    def losses(self, batch: Batch) -> Tensor:
        plain = super().losses(batch)
        z, keys = batch.anchors_and_keys()
        cosine = torch.einsum("vnd,und->vun", z if self.symmetric else z[:1], keys)  # anchors v, positives u
        weight = 2 - z.shape[1] * (cosine.detach() / self.sigma).softmax(-1)
        other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)[: len(cosine), :, None]
        scale = self.anchor_groups(batch)[0].scale
        less = ((1 - weight) * cosine * scale * other).sum(1) / (len(z) - 1)
        # exactly 0 is an anchor without negatives, which adds nothing
        return plain + less[:, batch.local].flatten().masked_fill(plain == 0, 0)


class DHEL(LogRatioLoss):
    """Decoupled, with negatives of the anchor's own view alone: alignment and uniformity do not share terms.

        L = mean over samples of [ -s_p / t + sum over views v of log Z_v ],   Z_v over the same view (candidates: same)

    Koromilas, Bouritsas, Giannakopoulos, Nicolaou, Panagakis 2024, arXiv:2405.18045. With more than two views,
    the mean over anchors of 2 log Z_i - l_ip, which for two is the same. A learned temperature ends at a bound, as
    Decoupled's does. Arguments and errors are those of RowwiseLoss.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(DHEL(temperature=0.5)(z).item(), 4)
    0.0
    """

    def __init__(
        self, temperature: float = 0.3, learn_temperature: bool = False, candidates: CandidateSet = "same",
        symmetric: bool = True, negatives: Strategy | None = None, queue: Queue | None = None,
        row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)

    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        return 2 * log_z - positive


class MACL(LogRatioLoss):
    """InfoNCE with a temperature that follows the alignment, and without its vanishing gradient.

        t = t_0 ( 1 + alpha (A - A_0) ),   A = mean positive cosine of the batch, no gradient
        L = mean_i -log(P_i) / (1 - P_i),  P_i = e^{l_ip} / ( e^{l_ip} + Z_i ), no gradient through the denominator

    Huang, Chen, Wen, Zhang, Li, Wang, Chen 2023 (model-aware contrastive learning), arXiv:2207.07874, sec. 4. A is
    taken over all ranks' samples.

    Args:
        alpha: strength, in [0, 1].
        a_0: the alignment at which t = t_0.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(MACL(alpha=0.5, temperature=0.5)(z).item(), 4)
    1.4728
    """

    def __init__(
        self, alpha: float = 0.5, a_0: float = 0.0, *, temperature: float = 0.2, learn_temperature: bool = False,
        candidates: CandidateSet = "all", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        if not 0 <= alpha <= 1 or not alpha * (1 + a_0) < 1:
            raise ValueError(f"loss.alpha must be in [0, 1] with alpha (1 + a_0) < 1, got {alpha} and a_0={a_0}")
        self.alpha, self.a_0 = alpha, a_0

    def anchor_groups(self, batch: Batch) -> list[AnchorGroup]:
        sources = batch.z if self.symmetric else batch.z[:1]
        cosine = torch.einsum("vnd,und->vun", sources, batch.keys).detach().mean(-1)
        factor = 1 + self.alpha * (of_other_views(cosine).mean() - self.a_0)
        return [group._replace(scale=group.scale / factor) for group in super().anchor_groups(batch)]

    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        x = log_z - positive
        return F.softplus(x) / (x.detach().sigmoid() + 1e-8)  # 1 - P = sigmoid(x); the constant as in lightly
