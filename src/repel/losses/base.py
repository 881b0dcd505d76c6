"""What every loss has besides the call itself."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Loss(nn.Module):
    """A loss; see the package's docstring for what a call gets and gives."""

    supervised = False  # whether labels enter the loss
    needs_predictor = False  # whether it collapses without one
    tolerates_old_keys = False  # whether a queue makes sense without a momentum network
    takes_negatives = False  # whether it takes explicit negatives, which are candidates only
    takes_crops = False  # whether it takes further crops, which are anchors only

    def update(self, keys: Tensor, labels: Tensor | None, ids: Tensor | None) -> None:
        """Called once after every training batch with what it compared with, keys (V, N, D): the place for state."""

    def statistics(self) -> dict[str, Tensor]:
        """What to log of the training batches since the last call: names -> scalars."""
        return {}


def unit(z: Tensor) -> Tensor:
    """z on the sphere, in float32 at least. A vector of zeros stays one."""
    return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1, eps=1e-8)


def check_views(z: Tensor) -> tuple[int, int]:
    """V and N of z (V, N, D).

    Raises:
        ValueError: fewer than two views or samples.
    """
    views, samples, _ = z.shape
    if views < 2 or samples < 2:
        raise ValueError(f"a contrastive batch needs at least 2 views of 2 samples, got z of shape {tuple(z.shape)}")
    return views, samples


def swapped(agreement: Tensor) -> Tensor:
    """(V + L, V) of anchors with views -> mean over anchors of the mean over views other than itself."""
    views = agreement.shape[1]
    own = agreement[:views].diagonal()
    of_views = (agreement[:views].sum(1) - own) / (views - 1)
    return torch.cat([of_views, agreement[views:].mean(1)]).mean()
