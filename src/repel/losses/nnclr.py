"""Neighbors as positives."""

from dataclasses import replace

import torch
from torch import Tensor

from repel.losses.anchor_groups import AnchorGroup
from repel.losses.base import Batch, Dims, first_dims, shows_another
from repel.losses.queue import Queue
from repel.losses.ratio import InfoNCE
from repel.losses.rowwise import CandidateSet, RowChunk
from repel.negatives.strategy import Strategy


class NNCLR(InfoNCE):
    """InfoNCE between an embedding's nearest neighbor and its other view.

        L = mean_i -log( e^{nn(k_i) . z_p / t} / sum_j e^{nn(k_i) . z_j / t} )

    Dwibedi, Aytar, Tompson, Sermanet, Zisserman 2021, arXiv:2104.14548, eq. 3 and 4. k: the target's embeddings, or the
    batch's own without gradient; z: those of the other view. The neighbor is looked up, before the batch enters it, in
    the queue and among the batch's other samples; these make it valid from the first step and without any queue, which
    the paper does not say. An entity is never its own neighbor. Explicit negatives are refused: they would be of the
    target's space, candidates here are predictions.

    Raises:
        ValueError: candidates=queue: the queue holds neighbors, which are no candidates, so that there would be none.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(NNCLR()(z).item(), 4)
    3.5952
    """

    tolerates_old_keys = True
    takes_negatives = False
    compares_queue = False  # it is where neighbors come from
    compares_catalog = False  # candidates are predictions of the batch
    takes_crops = False  # a neighbor is looked up from the target's embeddings, of which crops have none

    def __init__(
        self, temperature: float = 0.1, learn_temperature: bool = False, candidates: CandidateSet = "cross",
        symmetric: bool = True, negatives: Strategy | None = None, queue: Queue | None = None,
        row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        if candidates == "queue":
            raise ValueError("loss.candidates=queue: NNCLR's queue holds neighbors, no candidates; set cross or all")

    def anchor_groups(self, batch: Batch) -> list[AnchorGroup]:
        return super().anchor_groups(replace(batch, z=self._neighbors(batch), keys=batch.z))

    def _neighbors(self, batch: Batch) -> Tensor:
        """(V, N, D): for each local key its nearest neighbor; other ranks' anchors are not looked at."""
        keys, ids = batch.keys.detach(), batch.ids
        views, samples, _ = keys.shape
        sample = torch.arange(samples, device=keys.device)
        own = sample[None] if ids is None else ids
        past, past_ids, _ = self.queue.entries()
        support, shown = keys.flatten(0, 1), own.expand(views, -1).flatten()
        if len(past):
            support = torch.cat([support, first_dims(past.to(keys.dtype), keys.shape[-1])])
            shown = torch.cat([shown, torch.full_like(past_ids, -1) if ids is None else past_ids])
        anchors = keys.clone()
        for view in range(views):
            for part in sample[batch.local].split(1024):
                similarity = keys[view, part] @ support.T
                similarity.masked_fill_(~shows_another(own[:, part], shown), -torch.inf)
                anchors[view, part] = support[similarity.argmax(1)]
        return anchors
