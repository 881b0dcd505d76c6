"""Retrieval: do the nearest samples share the query's label?"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.evaluation.knn import QUERY_BLOCK
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score

__all__ = ["Retrieval", "retrieval_metrics"]


def retrieval_metrics(x: Tensor, y: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Each feature searches all others by cosine.

    recall_at_k: share of queries with at least one of their label among the k nearest.
    map_at_r: mean over queries of 1/R sum_{i <= R} precision(i) [the i-th is of the label], R the number of others of
    the label (Musgrave, Belongie, Lim 2020, arXiv:2003.08505, sec. 3.2).
    Queries without another of their label are left out.

    Args:
        x: (N, F) features of any scale.
        y: (N,) labels >= 0.
        ks: numbers of neighbors, each at least 1.

    Returns:
        recall_at_k for each k, and map_at_r -> values in [0, 1].

    Raises:
        ValueError: no two samples share a label.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), torch.tensor([0, 0, 1, 1])
    >>> retrieval_metrics(x, y, ks=[1])
    {'recall_at_1': 1.0, 'map_at_r': 1.0}
    """
    x, count = F.normalize(x, dim=1), torch.bincount(y)
    relevant = count[y] - 1
    depth = min(len(x) - 1, max(int(relevant.max()), *ks))
    totals, queries = torch.zeros(len(ks) + 1, dtype=torch.float64), 0
    for part in torch.arange(len(x), device=x.device).split(QUERY_BLOCK):
        part = part[relevant[part] > 0]
        similarity = x[part] @ x.T
        similarity[torch.arange(len(part), device=x.device), part] = -torch.inf
        hit = (y[similarity.topk(depth, dim=1).indices] == y[part, None]).double()
        rank = torch.arange(1, depth + 1, device=x.device)
        within = rank <= relevant[part, None]
        precision = hit.cumsum(1) / rank
        totals[-1] += ((precision * hit * within).sum(1) / relevant[part]).sum().cpu()
        for i, k in enumerate(ks):
            totals[i] += hit[:, :k].amax(1).sum().cpu()
        queries += len(part)
    if not queries:
        raise ValueError("retrieval needs at least two samples of one label")
    return dict(zip([*(f"recall_at_{k}" for k in ks), "map_at_r"], (totals / queries).tolist(), strict=True))


class Retrieval(Evaluator):
    """Every test sample searches the other test samples; nothing is fitted.

    Args:
        ks: numbers of neighbors of recall@k.
    """

    def __init__(self, ks: Sequence[int]):
        if not ks or any(k < 1 for k in ks):
            raise ValueError(f"evaluators.retrieval.ks needs numbers >= 1, got {list(ks)}")
        self.ks = list(ks)

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        def score(test: Part) -> list[Score]:
            if int(torch.bincount(test.y).max()) < 2:
                return []  # no two samples share a label: there is nothing to find
            values = retrieval_metrics(test.x, test.y, self.ks)
            labels = [*(f"recall@{k}" for k in self.ks), "MAP@R"]
            return [
                Score(key, label, value, {"normalize": "l2"})
                for (key, value), label in zip(values.items(), labels, strict=True)
            ]

        return Fitted(score)
