"""Retrieval: do the nearest samples share the query's label?"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.base.collectives import share_blocks
from repel.evaluation.knn import QUERY_BLOCK
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score
from repel.evaluation.stored_features import Features, StoredFeatures
from repel.evaluation.stored_search import queries_at_once, stored_neighbors

__all__ = ["Retrieval", "retrieval_metrics"]


def retrieval_metrics(x: Features, y: Tensor, ks: Sequence[int], queries: Tensor | None = None) -> dict[str, float]:
    """Features search all others by cosine.

    recall_at_k: share of queries with at least one of their label among the k nearest.
    map_at_r: mean over queries of 1/R sum_{i <= R} precision(i) [the i-th is of the label], R the number of others of
    the label (Musgrave, Belongie, Lim 2020, arXiv:2003.08505, sec. 3.2).
    Queries without another of their label are left out.

    Args:
        x: (N, F) features of any scale; stored ones are read in blocks.
        y: (N,) labels >= 0.
        ks: numbers of neighbors, each at least 1.
        queries: (n,) places of the features that search; None: all do.

    Returns:
        recall_at_k for each k, and map_at_r -> values in [0, 1].

    Raises:
        ValueError: no two samples share a label.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), torch.tensor([0, 0, 1, 1])
    >>> retrieval_metrics(x, y, ks=[1])
    {'recall_at_1': 1.0, 'map_at_r': 1.0}
    """
    return _metrics(_sums(x, y, ks, torch.arange(len(x)) if queries is None else queries), ks)


def _sums(x: Features, y: Tensor, ks: Sequence[int], places: Tensor) -> Tensor:
    """Of each block of the queries at these places (n,), all whole but the last, (ceil(n / QUERY_BLOCK), K + 2)
    float64: the sum of each recall@k, that of the average precisions, and how many queries count."""
    unit = x if isinstance(x, StoredFeatures) else F.normalize(x, dim=1)
    relevant = torch.bincount(y)[y] - 1
    depth = min(len(x) - 1, max(int(relevant.max()), *ks))
    at_once = queries_at_once(x.shape[1], QUERY_BLOCK) if isinstance(x, StoredFeatures) else QUERY_BLOCK
    sums = torch.zeros(-(-len(places) // QUERY_BLOCK), len(ks) + 2, dtype=torch.float64)
    blocks = iter(sums)
    for group in places.to(x.device).split(at_once):
        parts = [part[relevant[part] > 0] for part in group.split(QUERY_BLOCK)]
        found = _others(unit, torch.cat(parts), depth).split([len(part) for part in parts])
        for part, nearest, total in zip(parts, found, blocks, strict=False):
            total[:] = _block_sums(y[nearest] == y[part, None], relevant[part], ks)
    return sums


def _others(unit: Features, places: Tensor, depth: int) -> Tensor:
    """The places (n, depth) of the nearest others of the features at these places (n,), unit vectors or stored."""
    if isinstance(unit, StoredFeatures):
        return stored_neighbors(unit, unit.subset(places), depth, QUERY_BLOCK, places)[1]
    similarity = unit[places] @ unit.T
    similarity[torch.arange(len(places), device=unit.device), places] = -torch.inf
    return similarity.topk(depth, dim=1).indices


def _block_sums(hit: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Of queries with hits (n, depth) bool and so many others (n,) of their label."""
    hit, rank = hit.double(), torch.arange(1, hit.shape[1] + 1, device=hit.device)
    precision = hit.cumsum(1) / rank
    average = ((precision * hit * (rank <= relevant[:, None])).sum(1) / relevant).sum()
    return torch.stack([*(hit[:, :k].amax(1).sum() for k in ks), average, average.new_tensor(len(hit))])


def _metrics(sums: Tensor, ks: Sequence[int]) -> dict[str, float]:
    *_, totals = sums.cumsum(0).tolist()  # one block after the other, whichever rank it was of
    if not totals[-1]:
        raise ValueError("retrieval needs at least two samples of one label")
    names = [*(f"recall_at_{k}" for k in ks), "map_at_r"]
    return {name: total / totals[-1] for name, total in zip(names, totals, strict=False)}


def _shared_metrics(x: Features, y: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """The same, of which each rank does some blocks of the queries."""
    blocks = -(-len(x) // QUERY_BLOCK)

    def sums(numbers: Tensor) -> Tensor:
        places = (numbers[:, None] * QUERY_BLOCK + torch.arange(QUERY_BLOCK)).flatten()
        return _sums(x, y, ks, places[places < len(x)]).to(x.device)

    return _metrics(share_blocks(sums, blocks, 1, x.device).cpu(), ks)


class Retrieval(Evaluator):
    """Every test sample searches the other test samples; nothing is fitted.

    Args:
        ks: numbers of neighbors of recall@k.
    """

    takes_stored = True

    def __init__(self, ks: Sequence[int]):
        if not ks or any(k < 1 for k in ks):
            raise ValueError(f"evaluators.retrieval.ks needs numbers >= 1, got {list(ks)}")
        self.ks = list(ks)

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        def score(test: Part) -> list[Score]:
            if int(torch.bincount(test.y).max()) < 2:
                return []  # no two samples share a label: there is nothing to find
            values = _shared_metrics(test.x, test.y, self.ks)
            labels = [*(f"recall@{k}" for k in self.ks), "MAP@R"]
            return [
                Score(key, label, value, {"normalize": "l2"})
                for (key, value), label in zip(values.items(), labels, strict=True)
            ]

        return Fitted(score)
