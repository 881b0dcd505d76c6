"""Neighbours as positives."""

import torch
from torch import Tensor

from repel.losses.ratio import InfoNCE


class NNCLR(InfoNCE):
    """InfoNCE between an embedding's nearest neighbour and its other view.

        L = mean_i -log( e^{nn(k_i) . z_p / t} / sum_j e^{nn(k_i) . z_j / t} )

    Dwibedi, Aytar, Tompson, Sermanet, Zisserman 2021, arXiv:2104.14548, eq. 3 and 4. k: the target's embeddings, or the
    batch's own without gradient; z: those of the other view. The neighbour is looked up, before the batch enters it, in
    the queue and among the batch's other samples; these make it valid from the first step and without any queue, which
    the paper does not say. An image is never its own neighbour.
    """

    tolerates_old_keys = True
    takes_crops = False  # a neighbour is looked up from the target's embeddings, of which crops have none

    def roles(
        self, z: Tensor, keys: Tensor, labels: Tensor | None, ids: Tensor | None, local: slice
    ) -> tuple[Tensor, Tensor]:
        keys = keys.detach()
        views, samples, _ = keys.shape
        sample = torch.arange(samples, device=z.device)
        past, past_ids, _ = self.queue.entries()
        support = keys.flatten(0, 1)
        if len(past):
            support = torch.cat([support, past.to(keys.dtype)])
        anchors = keys.clone()  # other ranks' anchors are not looked at
        for view in range(views):
            for part in sample[local].split(1024):
                similarity = keys[view, part] @ support.T
                similarity[:, : views * samples].masked_fill_(part[:, None] == sample.repeat(views), -torch.inf)
                if ids is not None and len(past):
                    similarity[:, views * samples :].masked_fill_(ids[part, None] == past_ids, -torch.inf)
                anchors[view, part] = support[similarity.argmax(1)]
        return anchors, z

    def columns(self, keys, labels, ids, anchor_views):
        """The batch alone: the queue is where neighbours come from."""
        return self.of_batch(keys, labels, ids, anchor_views)
