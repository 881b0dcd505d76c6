"""Losses that are a mean over anchors of a link of the log-ratio of negatives to positive.

log Z_i = C( logsumexp over negatives j of ( l_ij + w_ij ) )      w, C: the negatives strategy
x_ip    = log Z_i - l_ip
L       = mean over anchors i and their positives p of link( x_ip )
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repel.negatives.strategy import Rows, Strategy


class RowwiseLoss(nn.Module):
    """Anchors are all V*N embeddings; an anchor's positives are the other views of its sample, its negatives the rest.

    Args:
        temperature: t > 0; logits are l = cosine similarity / t.
        negatives: the strategy.
        row_chunk: anchors handled at a time, each block under activation checkpointing: memory O(row_chunk * V*N)
            in place of O((V*N)^2), same value and gradient. None: all at once.
    """

    def __init__(self, temperature: float, negatives: Strategy, row_chunk: int | None):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"loss.temperature must be > 0, got {temperature}")
        if row_chunk is not None and (not isinstance(row_chunk, int) or row_chunk < 1):
            raise ValueError(f"loss.row_chunk must be null or at least 1, got {row_chunk}")
        self.temperature, self.negatives, self.row_chunk = temperature, negatives, row_chunk
        self.supervised = negatives.supervised

    @abstractmethod
    def link(self, x: Tensor) -> Tensor:
        """Turn log Z - l_p, any shape, into a loss per anchor and positive."""

    def forward(
        self, z: Tensor, labels: Tensor | None = None, ids: Tensor | None = None, local: slice = slice(None)
    ) -> Tensor:
        views, samples, _ = z.shape
        if views < 2 or samples < 2:
            raise ValueError(
                f"a contrastive batch needs at least 2 views of 2 samples, got z of shape {tuple(z.shape)}"
            )
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1)
            columns = embeddings(z, labels, ids)
            anchors = columns.place.view(views, samples)[:, local].flatten()
            if self.row_chunk is None:
                total = self.block(columns.take(anchors), columns)
            else:
                parts = anchors.split(self.row_chunk)
                total = sum(checkpoint(self.block, columns.take(p), columns, use_reentrant=False) for p in parts)
            return total / (len(anchors) * (views - 1))

    def block(self, anchors: "Embeddings", columns: "Embeddings") -> Tensor:
        """Sum of the losses of a block of anchors, over their positives, against all columns."""
        logits = anchors.z @ columns.z.T / self.temperature
        negative = anchors.sample[:, None] != columns.sample
        positive = ~negative & (anchors.place[:, None] != columns.place)
        positives = logits[positive].view(len(logits), -1)  # (m, V - 1)
        rows = Rows(
            logits, positives.mean(1), negative, 1 / self.temperature,
            anchors.ids, columns.ids, anchors.labels, columns.labels,
        )  # fmt: skip
        weights = self.negatives.weights(rows)
        keep = negative & (weights > -torch.inf)
        # masked by a boolean, not by adding -inf: an anchor that keeps no negative then has no gradient, not NaN
        weighted = (logits + weights.masked_fill(~keep, 0)).masked_fill(~keep, -torch.inf)
        log_z = self.negatives.correct(weighted.logsumexp(1), rows)
        return self.link(log_z[:, None] - positives).sum()


class Embeddings(NamedTuple):
    """Unit vectors z (M, D) with, for each, its place among the columns, its sample, dataset id and label, (M,)."""

    z: Tensor
    place: Tensor
    sample: Tensor
    ids: Tensor | None
    labels: Tensor | None

    def take(self, places: Tensor) -> "Embeddings":
        return Embeddings(*(t if t is None else t[places] for t in self))


def embeddings(z: Tensor, labels: Tensor | None, ids: Tensor | None) -> Embeddings:
    """(V, N, D) -> V*N embeddings, view by view."""
    views, samples, _ = z.shape
    place = torch.arange(views * samples, device=z.device)
    per_view = (t if t is None else t.repeat(views) for t in (ids, labels))
    return Embeddings(z.flatten(0, 1), place, place % samples, *per_view)
