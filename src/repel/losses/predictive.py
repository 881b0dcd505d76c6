"""Losses without negatives that predict the other view; what keeps them from collapsing is the network around them."""

import torch
from torch import Tensor

from repel.losses.base import Loss, check_views, swapped, unit


class BYOL(Loss):
    """Squared distance between predictions and the other views' target embeddings: L = mean 2 - 2 cos(z_i, k_p).

    Grill, Strub, Altche et al. 2020, arXiv:2006.07733, eq. 2: with a predictor and a momentum target. Chen, He 2021
    (SimSiam), arXiv:2011.10566, eq. 1 and 2, is half of this minus 1: with a predictor and without momentum, where the
    target is the projection before the predictor. No gradient goes through the target.
    """

    needs_predictor = True
    takes_crops = True

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        local: slice = slice(None),
        target: Tensor | None = None,
        crops: Tensor | None = None,
    ) -> Tensor:
        check_views(z)
        with torch.autocast(z.device.type, enabled=False):
            z = unit(z)
            keys = z.detach() if target is None else unit(target).detach()
            anchors = (z if crops is None else torch.cat([z, unit(crops)]))[:, local]
            return 2 - 2 * swapped(torch.einsum("vnd,und->vu", anchors, keys[:, local]) / anchors.shape[1])
