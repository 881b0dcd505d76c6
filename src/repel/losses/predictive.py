"""Losses without negatives that predict the other view; what keeps them from collapsing is the network around them."""

import torch
from torch import Tensor

from repel.losses.base import Batch, Dims, Loss, swapped


class BYOL(Loss):
    """Squared distance between predictions and the other views' target embeddings: L = mean 2 - 2 cos(z_i, k_p).

    The mean is over pairs of an anchor i and another view p; crops, which the paper does not have, are further anchors.

    Grill, Strub, Altche et al. 2020, arXiv:2006.07733, eq. 2: with a predictor and a momentum target. Chen, He 2021
    (SimSiam), arXiv:2011.10566, eq. 1 and 2, is half of this minus 1: with a predictor and without momentum, where the
    target is the projection before the predictor. No gradient flows through the target. Nothing is repelled, so ids do
    not matter and explicit negatives are refused.

    Args:
        dims: see Loss, errors included.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # predictions
    >>> round(BYOL()(z, target=z).item(), 4)
    0.4
    """

    needs_predictor = True
    takes_crops = True

    def __init__(self, dims: Dims = None):
        super().__init__(dims)

    def losses(self, batch: Batch) -> Tensor:
        keys = batch.keys.detach()
        anchors = (batch.z if batch.crops is None else torch.cat([batch.z, batch.crops]))[:, batch.local]
        return 2 - 2 * swapped(torch.einsum("vnd,und->vu", anchors, keys[:, batch.local]) / anchors.shape[1])
