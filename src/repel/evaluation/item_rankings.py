"""Metrics of rankings: all items are ranked for each user, without those that the user has in training."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from repel.base.collectives import gather, own_blocks, world_size
from repel.evaluation.measurement import Array
from repel.evaluation.top_items import CosineScorer, KnownItems, Scorer, StoredScorer, top_items, user_blocks

__all__ = ["FIFTHS", "KINDS", "Mean", "check_ks", "popularity_fifths", "rank_all", "ranking_metrics"]

KINDS = ("recall", "ndcg", "precision", "mrr", "hit_rate")
FIFTHS = 5


class Mean(NamedTuple):
    """A mean over users, and half the width of its 95 % interval: 1.96 standard errors."""

    value: float
    ci95: float
    users: int


class Sums:
    """Sums over users, in float64, of values that each user has or has not."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0

    def add(self, values: Tensor, has: Tensor) -> None:
        """Values (n, M), and whether each counts, (n, M) or (n, 1) bool."""
        values = torch.where(has, values.double(), 0.0)
        parts = [values, values.square(), has.double().expand_as(values)]
        self.total = self.total + torch.stack([part.sum(0) for part in parts])

    def over_ranks(self) -> None:
        """Of all ranks, each of which has added at least one value."""
        assert isinstance(self.total, Tensor), "something was added"
        self.total = gather(self.total[None]).sum(0)

    def means(self) -> list[Mean]:
        assert isinstance(self.total, Tensor), "something was added"
        found = []
        for total, squares, n in self.total.T.tolist():
            mean = total / n if n else math.nan
            variance = max(0.0, squares - n * mean**2) / (n - 1) if n > 1 else 0.0
            found.append(Mean(mean, 1.96 * math.sqrt(variance / n) if n else math.nan, int(n)))
        return found


class RankingResult(NamedTuple):
    """metrics: name -> mean over users with a test item. fifths: recall@k of the items of each fifth of popularity.

    shown: (items,), to how many users each item is recommended among the first k.
    """

    metrics: dict[str, Mean]
    fifths: list[Mean]
    shown: Tensor


def ranking_metrics(
    user_vectors: Array, item_vectors: Array, train_pairs: Array, test_pairs: Array, k: int | Sequence[int] = 20
) -> dict[str, float]:
    """Rank all items for each user by the cosine of their vectors, without the user's training items.

    recall_at_k: hits / |the user's test items|. precision_at_k: hits / k. ndcg_at_k: the sum of 1 / log2(rank + 1) of
    the hits, over that of min(k, |test items|) hits at the top (Järvelin, Kekäläinen 2002, doi 10.1145/582415.582418,
    with gains 0 and 1). mrr_at_k: 1 / rank of the first hit, 0 without one. hit_rate_at_k: share of users with a hit.
    All are means over the users who have a test item; nothing is sampled (Krichene, Rendle 2020, doi
    10.1145/3394486.3403226). Of equal scores the item of the lower number comes first.

    Args:
        user_vectors, item_vectors: (users, F) and (items, F), tensors or arrays.
        train_pairs, test_pairs: (E, 2) integers, user and item, each counted from 0; no pair is in both. To choose by
            validation pairs, give these as test pairs; then add them to the training pairs.
        k: length of a list, or several.

    Returns:
        recall_at_k, ndcg_at_k, precision_at_k, mrr_at_k and hit_rate_at_k -> values in [0, 1].

    Raises:
        ValueError: k is below 1, or there is no test pair.

    >>> users, items = torch.eye(2), torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> ranking_metrics(users, items, train_pairs=[[0, 0], [1, 2]], test_pairs=[[0, 1], [1, 0]], k=1)
    {'recall_at_1': 0.5, 'ndcg_at_1': 0.5, 'precision_at_1': 0.5, 'mrr_at_1': 0.5, 'hit_rate_at_1': 0.5}
    """
    ks = check_ks("ranking_metrics: k", [k] if isinstance(k, int) else k)
    scorer = CosineScorer(*(torch.as_tensor(vectors).float() for vectors in (user_vectors, item_vectors)))
    users, device = len(scorer.user_vectors), scorer.user_vectors.device
    train, test = (
        KnownItems.of(torch.as_tensor(pairs).reshape(-1, 2).long(), users).to(device)
        for pairs in (train_pairs, test_pairs)
    )
    if not len(test.items):
        raise ValueError("ranking_metrics needs a test pair")
    return {name: mean.value for name, mean in rank_all(scorer, train, test, ks).metrics.items()}


def rank_all(
    scorer: Scorer,
    known: KnownItems,
    test: KnownItems,
    ks: Sequence[int],
    k: int = 20,
    fifth_of: Tensor | None = None,
    users: Tensor | None = None,
) -> RankingResult:
    """Every metric for every user with a test item, in blocks of users.

    Args:
        known: left out of the rankings. test: what is to be found, at least one item; both on the scorer's device.
        ks: lengths of the lists.
        k: length of the list of `shown` and `fifths`.
        fifth_of: (items,) in 0 .. 4, see popularity_fifths; None: `fifths` stays empty.
        users: (n,) of whom those are ranked who have a test item; None: all.
    """
    users = torch.arange(len(test.starts) - 1, device=test.starts.device) if users is None else users
    users = users[test.counts[users] > 0]
    items = scorer.items if isinstance(scorer, StoredScorer) else scorer.scores(users[:1]).shape[1]
    shared = isinstance(scorer, StoredScorer) and 1 < world_size() <= len(users)
    users = users[own_blocks(len(users), 1).to(users.device)] if shared else users
    overall, by_fifth = Sums(), Sums()
    shown = torch.zeros(items, dtype=torch.int64, device=users.device)
    for block in user_blocks(scorer, users):
        top, wanted = top_items(scorer, block, known, max(*ks, k)), test.cells(block)
        first = torch.arange(len(block), device=block.device) * items  # of a user's cells
        hits = torch.isin(top + first[:, None], wanted[1] + first[wanted[0]]) & (top >= 0)
        found = user_values(hits, test.counts[block], ks)
        overall.add(torch.stack(list(found.values()), 1), torch.ones_like(hits[:, :1]))
        listed, hits = top[:, :k], hits[:, :k]
        shown += torch.bincount(listed[listed >= 0], minlength=items)
        if fifth_of is not None:
            by_fifth.add(*_recall_by_fifth(fifth_of, listed, hits, wanted))
    if shared:
        shown = gather(shown[None]).sum(0)
        for sums in (overall, by_fifth)[: 1 if fifth_of is None else 2]:
            sums.over_ranks()
    fifths = [] if fifth_of is None else by_fifth.means()
    return RankingResult(dict(zip(names(ks), overall.means(), strict=True)), fifths, shown)


def _recall_by_fifth(
    fifth_of: Tensor, top: Tensor, hits: Tensor, wanted: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Of a block of users, and of each fifth's items alone: recall (n, 5), and whether the user has a test item."""
    found, all_of_them = (torch.zeros(len(top), FIFTHS, dtype=torch.float64, device=top.device) for _ in range(2))
    found.scatter_add_(1, fifth_of[top.clamp(min=0)], hits.double())
    rows, items = wanted
    all_of_them.index_put_((rows, fifth_of[items]), found.new_ones(len(rows)), accumulate=True)
    return found / all_of_them, all_of_them > 0


def names(ks: Sequence[int]) -> list[str]:
    """In the order of a table.

    >>> names([10])
    ['recall_at_10', 'ndcg_at_10', 'precision_at_10', 'mrr_at_10', 'hit_rate_at_10']
    """
    return [f"{kind}_at_{k}" for kind in KINDS for k in ks]


def user_values(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Each user's metrics: hits (n, K) bool along the ranking, number of test items (n,) -> name -> (n,) float64."""
    hits, relevant = hits.double(), relevant.double()
    depth = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)
    discount = 1 / (depth + 1).log2()
    found, gain, first = hits.cumsum(1), (hits * discount).cumsum(1), (hits / depth).cummax(1).values
    values: dict[str, dict[int, Tensor]] = {kind: {} for kind in KINDS}
    for k in ks:
        last = min(k, hits.shape[1]) - 1  # of a list that all items together do not fill
        ideal = discount.cumsum(0)[relevant.clamp(max=last + 1).long() - 1]
        values["recall"][k] = found[:, last] / relevant
        values["ndcg"][k] = gain[:, last] / ideal
        values["precision"][k] = found[:, last] / k
        values["mrr"][k] = first[:, last]
        values["hit_rate"][k] = (found[:, last] > 0).double()
    return {f"{kind}_at_{k}": value for kind, by_k in values.items() for k, value in by_k.items()}


def popularity_fifths(popularity: Tensor) -> Tensor:
    """(items,) training pairs of each item -> which fifth of the items it is in, 0: the least popular, 4: the most."""
    places = torch.empty_like(popularity)
    places[popularity.argsort(stable=True)] = torch.arange(len(popularity), device=popularity.device)
    return places * FIFTHS // len(popularity)


def check_ks(name: str, ks: Sequence[int]) -> list[int]:
    if not ks or any(k < 1 for k in ks):
        raise ValueError(f"{name} needs numbers >= 1, got {list(ks)}")
    return list(dict.fromkeys(ks))
