"""Anchors, and what they are compared with."""

from typing import NamedTuple

import torch
from torch import Tensor

from repel.losses.base import shows_another
from repel.losses.queue import Queue
from repel.negatives.popularity import Popularity
from repel.negatives.strategy import LogitBlock, Strategy


class Candidates(NamedTuple):
    """n unit vectors z (n, D) with the entity that each shows and its label, (n,), both -1 where unknown.

    explicit: (M, N); the last M * N candidates are the explicit negatives of the N samples, N after N.
    catalog: E where they are all items of a catalog, else 0.
    """

    z: Tensor
    ids: Tensor
    labels: Tensor | None
    explicit: tuple[int, int] = (0, 0)
    catalog: int = 0


class AnchorGroup(NamedTuple):
    """m anchors that have the same candidates.

    anchors: (m, D). positives: (m, P, D), the other views of their samples; all views where anchors are crops.
    own_ids: (K, m), the entities that their samples show. ids: (m,), the entity that each anchor shows, or None.
    labels: (m,), or None. scale: 1 / t. positive_ids: (m, P), the entities that positives show, or None.
    samples: (m,), whose views anchors are. views: (m,), which of these; crops come after the V views.
    first_view: the least of views.
    """

    anchors: Tensor
    positives: Tensor
    own_ids: Tensor
    ids: Tensor | None
    labels: Tensor | None
    candidates: Candidates
    scale: float | Tensor
    positive_ids: Tensor | None = None
    samples: Tensor | None = None
    views: Tensor | None = None
    first_view: int = 0


def check_catalog(symmetric: bool, queue: Queue, negatives: Strategy) -> None:
    """Raises ValueError where other options do not go with a catalog as the candidates."""
    if symmetric:
        raise ValueError("loss.candidates=catalog compares the first view with all items: set loss.symmetric=false")
    if queue.size:
        raise ValueError("loss.candidates=catalog compares with all items already: leave out queue.size")
    if any(isinstance(part, Popularity) for part in negatives.modules()):
        raise ValueError(
            "loss.candidates=catalog has every item once, and negatives=popularity corrects draws: set negatives=known"
        )


def own_block(
    group: AnchorGroup, negatives: Tensor, negative_ids: Tensor | None, local: slice
) -> tuple[LogitBlock, Tensor]:
    """A group against the explicit negatives of each anchor's own sample, m x M logits; the positives' logits (m, P).

    negatives: (M, N, D). negative_ids: (M, N), the entities that they show, or None.
    local: of the N samples those whose views anchors are, view after view.
    """
    assert group.samples is not None
    own = negatives[:, local]
    if (views := len(group.samples) // own.shape[1]) > 1:
        own = own.repeat(1, views, 1)  # (M, m, D)
    logits = torch.einsum("md,kmd->mk", group.anchors * group.scale, own)
    positives = (group.anchors[:, None] * group.positives).sum(-1) * group.scale
    if negative_ids is None:
        negative = torch.ones_like(logits, dtype=torch.bool)
    else:
        negative = shows_another(group.own_ids, negative_ids[:, group.samples].T)
    block = LogitBlock(logits, positives.mean(1), negative, group.scale, group.anchors, own)
    only = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)  # as of a single sample's negatives
    return block._replace(positives=positives, row_samples=only, explicit=(len(own), 1)), positives


def of_other_views(x: Tensor) -> Tensor:
    """x (S, V, ...), of the first S of V views with each of the V -> (S * (V - 1), ...), without a view with itself.

    By places that follow from the shape: for a mask, a GPU would have to be asked how many there are.

    >>> of_other_views(torch.arange(9).view(3, 3)).tolist()
    [1, 2, 3, 5, 6, 7]
    """
    own, other = (torch.arange(n, device=x.device) for n in (len(x), x.shape[1] - 1))
    return x[own[:, None], other + (other >= own[:, None])].flatten(0, 1)
