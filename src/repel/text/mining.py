"""Hard negatives out of a corpus: what a trained encoder finds similar to a text, without being its positive."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Mined", "Window", "mine"]

BLOCK = 512  # queries compared with the whole corpus at a time


class Window(NamedTuple):
    """Which candidates may be negatives.

    ranks: the first and the last rank, from 1 for the most similar candidate; the very first are often positives that
        nobody marked (Xiong et al. 2021, ANCE, arXiv:2007.00808; Moreira et al. 2024, NV-Retriever, arXiv:2407.15831).
    scores: the lowest and the highest cosine.
    margin: a negative's cosine is below the positive's by at least this much.
    relative_margin: it is at most this share below 1 times the positive's: 0.05 allows 95 % of it ("TopK-PercPos").
    """

    ranks: tuple[int, int] = (1, 100)
    scores: tuple[float, float] = (-1.0, 1.0)
    margin: float = 0.0
    relative_margin: float = 0.0


class Mined(NamedTuple):
    """places (N, k) int64 in the corpus, the most similar first, -1 where there are fewer; cosines (N, k)."""

    places: Tensor
    cosines: Tensor


def mine(
    queries: Tensor,
    corpus: Tensor,
    own: Sequence[Sequence[int]],
    positive: Tensor | None,
    window: Window,
    k: int,
    generator: torch.Generator | None = None,
    classes: tuple[Tensor, Tensor] | None = None,
) -> Mined:
    """k hard negatives for each query.

    Args:
        queries: (N, D) features.
        corpus: (C, D) features of the candidates.
        own: for each query the candidates that are no negatives: itself, and its positives.
        positive: (N,) cosine of each query with its positive, or None: no margin is asked for.
        window: which candidates may be taken.
        generator: draws k of the window; None: the k most similar.
        classes: of the queries (N,) and the candidates (C,); a candidate of the query's class is no negative.

    >>> corpus = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> mine(corpus[:1], corpus, own=[[0]], positive=None, window=Window(), k=1).places
    tensor([[1]])
    """
    queries, corpus = F.normalize(queries, dim=1), F.normalize(corpus, dim=1)
    places, cosines = [], []
    first, last = window.ranks
    for start in range(0, len(queries), BLOCK):
        block = slice(start, start + BLOCK)
        similarity = queries[block] @ corpus.T
        rows = [row for row, mine in enumerate(own[block]) for _ in mine]
        similarity[rows, [place for mine in own[block] for place in mine]] = -torch.inf
        if classes is not None:
            own_class = classes[0][block, None]
            similarity[(own_class == classes[1]) & (own_class >= 0)] = -torch.inf
        values, found = similarity.topk(min(last, len(corpus)), dim=1)
        values, found = values[:, first - 1 :], found[:, first - 1 :]
        bound = None if positive is None else positive[block, None]
        values = values.masked_fill(~_allowed(values, bound, window), -torch.inf)
        order = values if generator is None else torch.rand(values.shape, generator=generator)
        chosen = order.masked_fill(values == -torch.inf, -1.0 if generator is not None else -torch.inf)
        at = chosen.topk(min(k, chosen.shape[1]), dim=1).indices
        at = at.gather(1, values.gather(1, at).argsort(dim=1, descending=True, stable=True))
        values, found = values.gather(1, at), found.gather(1, at)
        missing = k - found.shape[1]
        places.append(F.pad(found.masked_fill(values == -torch.inf, -1), (0, missing), value=-1))
        cosines.append(F.pad(values, (0, missing), value=-torch.inf))
    return Mined(torch.cat(places), torch.cat(cosines))


def _allowed(values: Tensor, positive: Tensor | None, window: Window) -> Tensor:
    """(b, R) bool, of cosines (b, R)."""
    low, high = window.scores
    allowed = (values >= low) & (values <= high)
    if positive is not None:
        allowed &= (values <= positive - window.margin) & (values <= positive - window.relative_margin * positive.abs())
    return allowed
