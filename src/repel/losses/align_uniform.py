"""Alignment and uniformity on the sphere."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from repel.losses.anchor_groups import AnchorGroup, of_other_views
from repel.losses.base import Batch, Dims, shows_another
from repel.losses.queue import Queue
from repel.losses.rowwise import CandidateSet, RowChunk, RowwiseLoss
from repel.negatives.strategy import LogitBlock, Strategy


class AlignUniform(RowwiseLoss):
    """Positives close together, everything spread over the sphere.

        L = mean ||z_i - z_p||^alpha + weight * mean over views of log mean over pairs e^{ -||z_i - z_j||^2 / t' }

    Wang, Isola 2020, arXiv:2005.10242, sec. 4.1: alpha = 2, 1 / t' = 2, weight = 1. With ||a - b||^2 = 2 - 2 cos,
    logits are s / t at t = t' / 2, so temperature = 0.25 there. The log is of a mean over all ranks' pairs of one view
    (candidates: same; all, cross: pairs of a sample's view and other samples' views), so this is no mean over anchors
    and every rank computes the whole. Uniformity tends to -4 + 8 / D for uniform embeddings at the paper's values, and
    both terms are 0 when all embeddings are equal. It falls with t, so that a learned temperature ends at its lowest.

    Args:
        alpha: > 0.
        weight: of the uniformity, > 0.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(AlignUniform()(z).item(), 4)
    -2.0
    """

    takes_crops = False
    compares_catalog = False  # its pairs are of the batch

    def __init__(
        self, alpha: float = 2.0, weight: float = 1.0, *, temperature: float = 0.25, learn_temperature: bool = False,
        candidates: CandidateSet = "same", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        for name, value in (("alpha", alpha), ("weight", weight)):
            if not value > 0:
                raise ValueError(f"loss.{name} must be > 0, got {value}")
        self.alpha, self.weight = alpha, weight

    def losses(self, batch: Batch) -> Tensor:
        batch = replace(batch, local=slice(None))
        samples, groups = batch.z.shape[1], self.anchor_groups(batch)
        further = len(self.queue) + (0 if batch.negatives is None else batch.negatives[..., 0].numel())
        log_z = super().losses(batch).unflatten(0, (-1, samples))
        of_a_view = _pairs(groups[0], samples, further) * samples // len(groups[0].anchors)
        log_z = log_z - groups[0].scale - math.log(max(1, of_a_view))
        if batch.ids is not None:  # an entity makes no pair with itself: where every sample shows another, log(1)
            log_z = log_z - torch.stack([_share_of_pairs(group, samples, further) for group in groups])[:, None].log()
        empty = (log_z == -torch.inf).all(1, keepdim=True)  # a view of which the strategy keeps no pair
        uniformity = log_z.masked_fill(empty, 0).logsumexp(1, keepdim=True).masked_fill(empty, 0).mean()
        z, keys = batch.anchors_and_keys()
        sources = z if self.symmetric else z[:1]
        cosine = torch.einsum("vnd,und->vun", sources, keys)
        # a distance of 0 has no derivative for alpha < 2
        distance = (2 - 2 * of_other_views(cosine)).clamp(min=torch.finfo(z.dtype).eps)
        return (distance ** (self.alpha / 2)).mean() + self.weight * uniformity

    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor) -> Tensor:
        return self.negatives.log_z(self.negatives.weigh(block))


def _pairs(group: AnchorGroup, samples: int, further: int) -> int:
    """How many pairs of an anchor and a candidate are of different samples. `further` candidates are no views."""
    own_views = (len(group.candidates.z) - further) // samples  # of an anchor's sample, among the candidates
    return len(group.anchors) * (len(group.candidates.z) - own_views)


def _share_of_pairs(group: AnchorGroup, samples: int, further: int) -> Tensor:
    """What part of the pairs of different samples are pairs of different entities."""
    blocks = group.own_ids.split(1024, dim=1)
    kept = torch.stack([shows_another(own, group.candidates.ids).sum() for own in blocks]).sum()
    return kept.clamp(min=1).to(group.anchors.dtype) / _pairs(group, samples, further)
