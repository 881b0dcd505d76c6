"""Alignment and uniformity on the sphere."""

import math

import torch
from torch import Tensor

from repel.losses.base import check_views, unit
from repel.losses.rowwise import RowwiseLoss
from repel.negatives.strategy import Rows


class AlignUniform(RowwiseLoss):
    """Positives close together, everything spread over the sphere.

        L = mean ||z_i - z_p||^alpha + weight * mean over views of log mean over pairs e^{ -||z_i - z_j||^2 / t' }

    Wang, Isola 2020, arXiv:2005.10242, sec. 4.1: alpha = 2, 1 / t' = 2, weight = 1. With ||a - b||^2 = 2 - 2 cos,
    logits are s / t at t = t' / 2, so temperature = 0.25 there. The log is of a mean over all ranks' pairs of one view
    (candidates: same), so this is no mean over anchors and every rank computes the whole. Uniformity tends to
    -4 + 8 / D for uniform embeddings at the paper's values, and both terms are 0 when all embeddings are equal.

    Args:
        alpha: > 0.
        weight: of the uniformity, > 0.
    """

    takes_crops = False

    def __init__(self, alpha: float, weight: float, **rowwise):
        super().__init__(**rowwise)
        for name, value in (("alpha", alpha), ("weight", weight)):
            if not value > 0:
                raise ValueError(f"loss.{name} must be > 0, got {value}")
        self.alpha, self.weight = alpha, weight

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        local: slice = slice(None),
        target: Tensor | None = None,
    ) -> Tensor:
        views, samples = check_views(z)
        log_z = self.losses(z, labels, ids, slice(None), target).unflatten(0, (-1, samples))
        with torch.autocast(z.device.type, enabled=False):
            z = unit(z)
            keys = z if target is None else unit(target).detach()
            sources = z if self.symmetric else z[:1]
            count = samples * (samples - 1 + len(self.queue))
            log_z = log_z - self.scale(z, keys) - math.log(count)
            empty = (log_z == -torch.inf).all(1, keepdim=True)  # a view of which the strategy keeps no pair
            uniformity = log_z.masked_fill(empty, 0).logsumexp(1, keepdim=True).masked_fill(empty, 0).mean()
            cosine = torch.einsum("vnd,und->vun", sources, keys)
            pairs = ~torch.eye(views, dtype=torch.bool, device=z.device)[: len(sources)]
            # a distance of 0 has no derivative for alpha < 2
            distance = (2 - 2 * cosine[pairs]).clamp(min=torch.finfo(z.dtype).eps)
            return (distance ** (self.alpha / 2)).mean() + self.weight * uniformity

    def per_anchor(self, rows: Rows, positives: Tensor, keys: Tensor) -> Tensor:
        return self.log_z(*self.weighed(rows))
