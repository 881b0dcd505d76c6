"""Losses of the ratio between an anchor's positive and its negatives."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.losses.base import unit
from repel.losses.rowwise import RowwiseLoss
from repel.negatives.strategy import Rows


class LogRatioLoss(RowwiseLoss):
    """A link between an anchor's log Z and each of its positives; with several positives, their mean."""

    @abstractmethod
    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        """Losses from log Z (m, 1) and positive logits (m, P): (m, P)."""

    def per_anchor(self, rows: Rows, positives: Tensor, keys: Tensor) -> Tensor:
        log_z = self.log_z(*self.weighed(rows))[:, None]
        empty = log_z == -torch.inf
        return self.link(log_z.masked_fill(empty, 0), positives).masked_fill(empty, 0).mean(1)


class InfoNCE(LogRatioLoss):
    """Cross-entropy of telling the positive from the negatives.

        L = mean_i [ -l_ip + log( e^{l_ip} + Z_i ) ] = mean_i softplus( log Z_i - l_ip )

    van den Oord, Li, Vinyals 2018, arXiv:1807.03748, eq. 4. By its candidates it is
    `all`: NT-Xent, Chen, Kornblith, Norouzi, Hinton 2020 (SimCLR), arXiv:2002.05709, eq. 1, with 2N - 2 negatives of
    both views; the authors' TensorFlow code returns the sum of the two views' means, twice this.
    `cross`: the symmetric cross-view form of CLIP, Radford et al. 2021, arXiv:2103.00020, with N - 1 negatives.
    `queue`, with a target network: MoCo, He et al. 2020, arXiv:1911.05722, eq. 1.
    Value: log(1 + number of negatives) when all embeddings are equal.
    """

    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        return F.softplus(log_z - positive)


class Decoupled(LogRatioLoss):
    """InfoNCE without the positive in the denominator: L = mean_i ( log Z_i - l_ip ). It may be negative.

    Yeh, Hong, Hsu, Liu, Chen, LeCun 2022 (decoupled contrastive learning), arXiv:2110.06848, eq. 6. Its gradient is
    InfoNCE's without the factor 1 - p_i that fades when the positive is found. Often called DCL, as is debiasing.
    """

    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        return log_z - positive


class DecoupledWeighted(Decoupled):
    """Decoupled, with more weight on positives that are far apart: L = mean_i ( log Z_i - w_i l_ip ).

        w_i = 2 - N softmax_i( s_ip / sigma ), over the N pairs of two views, without gradient; its mean is 1

    Yeh et al. 2022, arXiv:2110.06848, sec. 3.2. The softmax goes over all ranks' samples.

    Args:
        sigma: its temperature, > 0.
    """

    takes_crops = False

    def __init__(self, sigma: float, **rowwise):
        super().__init__(**rowwise)
        if not sigma > 0:
            raise ValueError(f"loss.sigma must be > 0, got {sigma}")
        self.sigma = sigma

    def losses(
        self,
        z: Tensor,
        labels: Tensor | None,
        ids: Tensor | None,
        local: slice,
        target: Tensor | None,
        crops: Tensor | None = None,
    ) -> Tensor:
        plain = super().losses(z, labels, ids, local, target, crops)
        with torch.autocast(z.device.type, enabled=False):
            z = unit(z)
            keys = z if target is None else unit(target).detach()
            cosine = torch.einsum("vnd,und->vun", z if self.symmetric else z[:1], keys)  # anchors v, positives u
            weight = 2 - z.shape[1] * (cosine.detach() / self.sigma).softmax(-1)
            other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)[: len(cosine), :, None]
            less = ((1 - weight) * cosine * self.scale(z, keys) * other).sum(1) / (len(z) - 1)
        return plain + less[:, local].flatten()


class DHEL(LogRatioLoss):
    """Decoupled, with negatives of the anchor's own view alone: alignment and uniformity do not share terms.

        L = mean over samples of [ -s_p / t + sum over views v of log Z_v ],   Z_v over the same view (candidates: same)

    Koromilas, Bouritsas, Giannakopoulos, Nicolaou, Panagakis 2024, arXiv:2405.18045. With more than two views,
    the mean over anchors of 2 log Z_i - l_ip, which for two is the same.
    """

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
    """

    def __init__(self, alpha: float, a_0: float, **rowwise):
        super().__init__(**rowwise)
        if not 0 <= alpha <= 1 or not alpha * (1 + a_0) < 1:
            raise ValueError(f"loss.alpha must be in [0, 1] with alpha (1 + a_0) < 1, got {alpha} and a_0={a_0}")
        self.alpha, self.a_0 = alpha, a_0

    def scale(self, anchors: Tensor, keys: Tensor) -> float | Tensor:
        sources = anchors if self.symmetric else anchors[:1]
        cosine = torch.einsum("vnd,und->vun", sources, keys).detach().mean(-1)
        pairs = ~torch.eye(len(keys), dtype=torch.bool, device=keys.device)[: len(sources)]
        return super().scale(anchors, keys) / (1 + self.alpha * (cosine[pairs].mean() - self.a_0))

    def link(self, log_z: Tensor, positive: Tensor) -> Tensor:
        x = log_z - positive
        return F.softplus(x) / (x.detach().sigmoid() + 1e-8)  # 1 - P = sigmoid(x); the constant as in lightly
