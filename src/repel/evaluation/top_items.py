"""The best items for each user, by any scorer, without those that the user is known to have."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.evaluation.stored_features import ROWS, Features, numbered_blocks, row_blocks

__all__ = ["CosineScorer", "KnownItems", "Scorer", "StoredScorer", "top_items", "user_blocks"]

USERS = 4096  # for whom stored items are read once
CELLS = {"cpu": 2**22, "cuda": 2**25}  # of a block of users x all items; a cell takes up to 30 bytes for a moment


class Scorer(Protocol):
    """What ranks items: a network's vectors, see CosineScorer, or a baseline without any."""

    def scores(self, users: Tensor) -> Tensor:
        """Users' numbers (n,) -> scores (n, items), the higher the better; -inf: never recommended."""
        ...


class CosineScorer:
    """Scores by the cosine of a user's and an item's vector.

    Args:
        user_vectors, item_vectors: (users, F) and (items, F) of any length, on one device.

    Example:
        >>> scorer = CosineScorer(torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
        >>> top_items(scorer, torch.tensor([1]), known=None, k=2)
        tensor([[1, 2]])
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor):
        self.user_vectors, self.item_vectors = F.normalize(user_vectors, dim=1), F.normalize(item_vectors, dim=1)

    def scores(self, users: Tensor) -> Tensor:
        return self.user_vectors[users] @ self.item_vectors.T


class StoredScorer:
    """The same, where vectors of users, of items or of both are stored."""

    def __init__(self, user_vectors: Features, item_vectors: Features):
        self.user_vectors, self.item_vectors, self.items = user_vectors, item_vectors, len(item_vectors)

    def scores(self, users: Tensor) -> Tensor:
        vectors = F.normalize(self.user_vectors[users], dim=1)
        return torch.cat([vectors @ F.normalize(rows, dim=1).T for rows in row_blocks(self.item_vectors)], dim=1)


class KnownItems(NamedTuple):
    """What each user has, as compressed rows: user u has items[starts[u] : starts[u + 1]].

    starts: (users + 1,) int64. items: (E,), each user's in ascending order.

    >>> known = KnownItems.of(torch.tensor([[2, 7], [0, 5], [2, 1]]), users=3)
    >>> known.starts.tolist(), known.items.tolist(), known.counts.tolist()
    ([0, 1, 1, 3], [5, 1, 7], [1, 0, 2])
    """

    starts: Tensor
    items: Tensor

    @classmethod
    def of(cls, pairs: Tensor, users: int) -> "KnownItems":
        """Of pairs (E, 2), user and item, in any order."""
        by_item = pairs[:, 1].argsort()
        order = by_item[pairs[by_item, 0].argsort(stable=True)]
        counts = torch.bincount(pairs[:, 0].long(), minlength=users)
        return cls(F.pad(counts.cumsum(0), (1, 0)), pairs[order, 1])

    @property
    def counts(self) -> Tensor:
        """(users,), how many each has."""
        return self.starts.diff()

    def to(self, device: torch.device) -> "KnownItems":
        return KnownItems(self.starts.to(device), self.items.to(device))

    def cells(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Users' numbers (n,) -> rows (m,) in 0 .. n - 1 and items (m,), all that these users have."""
        first, counts = self.starts[users], self.starts[users + 1] - self.starts[users]
        rows = torch.arange(len(users), device=users.device).repeat_interleave(counts)
        within = torch.arange(len(rows), device=users.device) - (counts.cumsum(0) - counts)[rows]
        return rows, self.items[first[rows] + within].long()


def top_items(scorer: Scorer, users: Tensor, known: KnownItems | None, k: int) -> Tensor:
    """The k items of the highest scores, of equal scores those of the lowest number first.

    Args:
        scorer: scores the items; in float32 at most, more would not be told apart.
        users: (n,) numbers, on the scorer's device.
        known: what is left out, or None; on the same device.
        k: at most as many as there are items are returned.

    Returns:
        (n, min(k, items)) int64, best first; -1 where a user has no further item.
    """
    if isinstance(scorer, StoredScorer):
        return _stored_top(scorer, users, known, k)
    found = [_top(scorer.scores(block), None if known is None else known.cells(block), k)
             for block in user_blocks(scorer, users)]  # fmt: skip
    return torch.cat(found) if found else users.new_zeros(0, k)


def user_blocks(scorer: Scorer, users: Tensor) -> Iterator[Tensor]:
    """The users (n,) in blocks whose scores are as much as is held at a time."""
    if isinstance(scorer, StoredScorer):
        yield from users.split(USERS)
    elif len(users):
        cells = CELLS[_kind(users)]
        yield from users.split(max(1, cells // scorer.scores(users[:1]).shape[1]))


def _stored_top(scorer: StoredScorer, users: Tensor, known: KnownItems | None, k: int) -> Tensor:
    """In one pass through the items: the best so far, before the best of a block of items, whose numbers are higher."""
    parts = users.split(max(1, CELLS[_kind(users)] // ROWS))
    vectors = [F.normalize(scorer.user_vectors[part], dim=1) for part in parts]
    cells = [(part[:0], part[:0]) if known is None else known.cells(part) for part in parts]
    values = [vectors[0].new_zeros(len(part), 0) for part in parts]
    items = [torch.zeros(len(part), 0, dtype=torch.int64, device=part.device) for part in parts]
    for start, rows in numbered_blocks(scorer.item_vectors):
        columns = F.normalize(rows, dim=1).T
        for i, (of_user, item) in enumerate(cells):
            scores = vectors[i] @ columns
            here = (item >= start) & (item < start + len(rows))
            top = _top(scores, (of_user[here], item[here] - start), k)
            best = scores.gather(1, top.clamp(min=0)).where(top >= 0, -torch.inf)
            values[i], order = torch.cat([values[i], best], 1).sort(dim=1, descending=True, stable=True)
            items[i] = torch.cat([items[i], (top + start).where(top >= 0, -1)], 1).gather(1, order)[:, :k]
            values[i] = values[i][:, :k]
    return torch.cat(items)


def _kind(users: Tensor) -> str:
    return "cpu" if users.device.type == "cpu" else "cuda"


def _top(scores: Tensor, left_out: tuple[Tensor, Tensor] | None, k: int) -> Tensor:
    """topk does not say which of equal scores it takes, nor in which order: both are put right here."""
    scores, items = scores.float() + 0.0, scores.shape[1]  # a copy, in which -0.0 is 0.0
    if left_out is not None:
        scores[left_out] = -torch.inf
    values, top = scores.topk(min(k + 1, items), dim=1)
    if k < items:
        tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        if tied.any():
            top[tied, :k] = _top_of_keys(scores[tied], k)
        top = top[:, :k]
    top = top.sort(dim=1).values
    values, order = scores.gather(1, top).sort(dim=1, descending=True, stable=True)
    return top.gather(1, order).where(values > -torch.inf, -1)


def _top_of_keys(scores: Tensor, k: int) -> Tensor:
    """The same by integers that ascend as the scores do, no two of a row equal; it takes three times as long."""
    bits = scores.view(torch.int32)
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long().mul_(2**32)
    return keys.add_(torch.arange(scores.shape[1], device=scores.device).flip(0)).topk(k, dim=1).indices
