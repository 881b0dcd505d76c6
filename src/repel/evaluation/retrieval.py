"""Retrieval: do the nearest images share the query's label?"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score

QUERIES = 1024  # handled at a time


def retrieval(x: Tensor, y: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Each feature searches all others by cosine.

    recall_at_k: share of queries with at least one of their label among the k nearest.
    map_at_r: mean over queries of 1/R sum_{i <= R} precision(i) [the i-th is of the label], R the number of others of
    the label (Musgrave, Belongie, Lim 2020, arXiv:2003.08505, sec. 3.2).
    Queries without another of their label are left out.

    Args:
        x: (N, F); y: (N,) labels.

    Returns:
        Names -> values in [0, 1].
    """
    x, count = F.normalize(x, dim=1), torch.bincount(y)
    relevant = count[y] - 1
    depth = min(len(x) - 1, max(int(relevant.max()), *ks))
    totals, queries = torch.zeros(len(ks) + 1, dtype=torch.float64), 0
    for part in torch.arange(len(x), device=x.device).split(QUERIES):
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
        raise ValueError("retrieval needs at least two images of a label")
    return dict(zip([*(f"recall_at_{k}" for k in ks), "map_at_r"], (totals / queries).tolist(), strict=True))


class Retrieval(Evaluator):
    """Every test image searches the other test images; nothing is fitted.

    Args:
        ks: how many of the nearest are looked at.
    """

    def __init__(self, ks: Sequence[int]):
        if not ks or any(k < 1 for k in ks):
            raise ValueError(f"evaluators.retrieval.ks needs numbers >= 1, got {list(ks)}")
        self.ks = list(ks)

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        def score(test: Part) -> list[Score]:
            if int(torch.bincount(test.y).max()) < 2:
                return []  # no two images share a label: there is nothing to find
            found = retrieval(test.x, test.y, self.ks)
            words = [*(f"recall@{k}" for k in self.ks), "MAP@R"]
            return [Score(n, w, v, {"normalize": "l2"}) for (n, v), w in zip(found.items(), words, strict=True)]

        return Fitted(score)
