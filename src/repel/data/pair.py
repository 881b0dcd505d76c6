"""What a datamodule yields to the model, whatever the samples are."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Pair", "ViewBatch", "merge_negatives", "merge_views", "to_float_dtype"]

ViewBatch = Tensor | tuple[Tensor, ...]


class Pair(NamedTuple):
    """A batch: B samples of this rank in V views. Token ids, node ids and other integers stay integers.

    views: (V, B, ...); or, where the sides of a pair differ in kind, a tuple of V batches (B, ...), one a side.
    ids: (V, B), the entity that each view shows. An image or a text: the same row V times. A pair of a user and an
        item: users in row 0, items in row 1, in disjoint ranges.
    labels: (B,), -1 where unknown, or None.
    crops: (L, B, ...), smaller views that are anchors only, or None.
    negatives: (M, B, ...), explicit negatives of the samples, which are candidates only; with sides that differ in
        kind a tuple of (M_side, B, ...), one a side, M their sum; or None.
    negative_ids: (M, B), their entities, or None where these are entities of their own.
    total: N, samples of the global batch, of which each rank has its `share`; None: W*B, B on every rank.
    catalog: (E, ...) of integers, all items there are, candidates only, the same on every rank, which encodes its
        `share`; or None.
    catalog_ids: (E,), their entities, or None.
    """

    views: ViewBatch
    ids: Tensor
    labels: Tensor | None
    crops: Tensor | None = None
    negatives: ViewBatch | None = None
    negative_ids: Tensor | None = None
    total: int | None = None
    catalog: Tensor | None = None
    catalog_ids: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """B, the samples of this rank."""
        return self.ids.shape[1]


def to_float_dtype(x: ViewBatch, dtype: torch.dtype) -> ViewBatch:
    """Floating-point tensors in the dtype; integers stay integers."""
    if isinstance(x, tuple):
        return tuple(to_float_dtype(side, dtype) for side in x)  # type: ignore[misc]
    return x.to(dtype) if x.is_floating_point() else x


def merge_views(views: ViewBatch) -> ViewBatch:
    """An encoder's input: (V, B, ...) -> (V*B, ...); a tuple with one batch (B, ...) a side stays one."""
    return views if isinstance(views, tuple) else views.flatten(0, 1)


def merge_negatives(negatives: ViewBatch) -> ViewBatch:
    """The same of negatives (M, B, ...), or of a tuple with (M_side, B, ...) a side."""
    return tuple(side.flatten(0, 1) for side in negatives) if isinstance(negatives, tuple) else negatives.flatten(0, 1)
