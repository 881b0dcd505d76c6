"""Rankings without an encoder, beside which a network's belong: popular items, item-kNN, EASE.

All are fitted to the training pairs; their options are chosen by NDCG@20 of the validation pairs.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repel.base.collectives import rank
from repel.evaluation.features import evenly_spaced
from repel.evaluation.item_rankings import rank_all
from repel.evaluation.modality import Baseline
from repel.evaluation.top_items import KnownItems, Scorer
from repel.interactions.pairs import Interactions

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["EASE", "ItemKNN", "Popular", "choose", "ease_grid", "item_knn_grid", "pair_baselines"]

NEIGHBORS, SHRINK = (20, 50, 100, 200, 500), (0.0, 10.0, 100.0)
L2 = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
EASE_ITEMS = 20_000  # whose matrix of items takes 3 GB in float64, and some minutes to invert on a few cores
USERS = 5_000  # by whom options are chosen, at most, evenly spaced
ROWS = 256  # items whose neighbors are looked for at a time
K = 20


class Popular:
    """The items with the most training pairs, the same for every user."""

    def __init__(self, train: Interactions, device: torch.device):
        self.counts = torch.bincount(train.x[:, 1].long(), minlength=train.store.items).float().to(device)

    def scores(self, users: Tensor) -> Tensor:
        return self.counts.expand(len(users), -1)


class ItemKNN:
    """score(u, j) = sum of s_ij over the items i of u among the nearest of j; s_ij = c_ij / (sqrt(c_ii c_jj) + shrink).

    c_ij: users who have both (Sarwar et al. 2001, doi 10.1145/371920.372071; Deshpande, Karypis 2004, doi
    10.1145/963770.963776). The CPU computes the scores.

    Args:
        pairs: (users, items), 1 at the training pairs.
        similar: (items, items), s_ij where i is among the nearest of j.
        device: of the scores.
    """

    def __init__(self, pairs: "csr_array", similar: "csr_array", device: torch.device):
        self.pairs, self.similar, self.device = pairs, similar, device

    def scores(self, users: Tensor) -> Tensor:
        dense = (self.pairs[users.cpu().numpy()] @ self.similar).toarray()
        return torch.from_numpy(dense).float().to(self.device)


def item_knn_grid(train: Interactions, device: torch.device) -> Iterator[tuple[ItemKNN, dict[str, Any]]]:
    """Item-kNN for each choice of options, with the options."""
    pairs = _matrix(train)
    for shrink in SHRINK:
        nearest = _Neighbors.of(pairs, shrink, max(NEIGHBORS))
        for neighbors in NEIGHBORS:
            yield ItemKNN(pairs, nearest.cut(neighbors), device), {"neighbors": neighbors, "shrink": shrink}


class EASE:
    """Each item as a linear sum of the others: minimizes ||X - X B||^2 + l2 ||B||^2 with diag(B) = 0, by one inverse.

    P = (X^T X + l2 I)^-1, B_ij = -P_ij / P_jj; scores are X B (Steck 2019, arXiv:1905.03375, eq. 8).

    Args:
        pairs: X as rows: what each user has in training.
        gram: (items, items) float64, X^T X.
        l2: the regularization, above 0.
    """

    def __init__(self, pairs: KnownItems, gram: Tensor, l2: float):
        self.pairs = pairs
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + l2 * torch.eye(len(gram)).to(gram)))
        self.weight = (inverse / -inverse.diagonal()).float()
        self.weight.diagonal().zero_()

    def scores(self, users: Tensor) -> Tensor:
        x = self.weight.new_zeros(len(users), len(self.weight))
        x[self.pairs.cells(users)] = 1.0
        return x @ self.weight


def ease_grid(train: Interactions, device: torch.device) -> Iterator[tuple[EASE, dict[str, Any]]]:
    """EASE for each l2, from the smallest up, with the options; in float64, or on the CPU where a device has none."""
    where, x = device if device.type == "cuda" else torch.device("cpu"), _matrix(train)
    pairs = KnownItems.of(train.x, train.store.users).to(device)
    gram = torch.from_numpy((x.T @ x).toarray()).to(where)
    for l2 in L2:
        made = EASE(pairs, gram, l2)
        made.weight = made.weight.to(device)
        yield made, {"l2": l2}


class _Neighbors(NamedTuple):
    """Of each item the most similar others, best first: similar (E,) to item (E,), by how much, at which place."""

    item: np.ndarray
    similar: np.ndarray
    value: np.ndarray
    place: np.ndarray
    items: int

    @classmethod
    def of(cls, pairs: "csr_array", shrink: float, neighbors: int) -> "_Neighbors":
        columns, items = pairs.T.tocsr(), pairs.shape[1]
        norms = np.sqrt(np.diff(columns.indptr).astype(np.float64))
        parts = []
        for start in range(0, items, ROWS):
            both = (columns[start : start + ROWS] @ pairs).tocoo()  # users who have both
            item, similar = both.row + start, both.col
            value = both.data / (norms[item] * norms[similar] + shrink)
            order = np.lexsort((similar, -value, item))
            order = order[item[order] != similar[order]]  # without the item itself
            place = np.arange(len(order)) - np.searchsorted(item[order], item[order])
            order, place = order[place < neighbors], place[place < neighbors]
            parts.append((item[order], similar[order], value[order], place))
        item, similar, value, place = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cls(item, similar, value, place, items)

    def cut(self, neighbors: int) -> "csr_array":
        """(items, items) of the nearest so many: a column an item, a row a neighbor."""
        from scipy.sparse import csr_array

        kept = self.place < neighbors
        cells = self.value[kept], (self.similar[kept], self.item[kept])
        return csr_array(cells, shape=(self.items, self.items))


def choose(
    grid: Iterable[tuple[Scorer, dict[str, Any]]],
    train: Interactions,
    val: Interactions,
    device: torch.device,
    until_worse: bool = False,
) -> tuple[Scorer, dict[str, Any]]:
    """The scorer of the highest NDCG@20 on the validation pairs, the first of equals, and its options.

    Args:
        grid: scorers with their options.
        until_worse: what comes after the first that is worse than the one before is not tried.
    """
    known, wanted = (KnownItems.of(part.x, train.store.users).to(device) for part in (train, val))
    users = wanted.counts.nonzero().squeeze(1)
    users = users[evenly_spaced(len(users), USERS).to(device)]
    best: tuple[float, Scorer, dict[str, Any]] | None = None
    for scorer, options in grid:
        value = rank_all(scorer, known, wanted, [K], K, users=users).metrics[f"ndcg_at_{K}"].value if len(users) else 0
        if best is None or value > best[0]:
            best = value, scorer, options
        elif until_worse and value < best[0]:
            break
    assert best is not None, "there is something to choose from"
    return best[1], best[2]


def pair_baselines(train: Interactions, val: Interactions) -> list[Baseline]:
    """Popular items, item-kNN and EASE, fitted and chosen when their turn comes; see Modality.baselines."""

    def popular(device: torch.device) -> tuple[Scorer, dict[str, Any]]:
        return Popular(train, device), {}

    def item_knn(device: torch.device) -> tuple[Scorer, dict[str, Any]]:
        return choose(item_knn_grid(train, device), train, val, device)

    def ease(device: torch.device) -> tuple[Scorer, dict[str, Any]]:
        return choose(ease_grid(train, device), train, val, device, until_worse=True)

    rows = [("popular", "popular", popular), ("item_knn", "item-kNN", item_knn), ("ease", "EASE", ease)]
    if train.store.items > EASE_ITEMS:
        rows.pop()
        if rank() == 0:
            too_many = f"{train.store.items:,} items are more than {EASE_ITEMS:,}"
            print(f"note     the baseline EASE is left out: {too_many}, whose matrix it inverts", flush=True)
    return [Baseline(source, label, "pairs", scorer=fitted) for source, label, fitted in rows]


def _matrix(train: Interactions) -> "csr_array":
    """(users, items), 1 at the training pairs."""
    from scipy.sparse import csr_array

    users, items = train.x.numpy().T
    return csr_array((np.ones(len(users)), (users, items)), shape=(train.store.users, train.store.items))
