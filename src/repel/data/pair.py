"""What a datamodule yields to the model, whatever the samples are."""

from typing import NamedTuple

from torch import Tensor


class Pair(NamedTuple):
    """views (V, B, ...) of the B samples of this rank, their dataset ids (B,), their labels (B,) or None.

    crops: (L, B, ...), smaller views that are anchors only, or None.
    """

    views: Tensor
    ids: Tensor
    labels: Tensor | None
    crops: Tensor | None = None
