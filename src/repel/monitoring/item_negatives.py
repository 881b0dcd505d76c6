"""What a run's training pairs say of its negatives: which are known positives, and how popular they are."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from repel.data.datamodule import PairData, pair_data
from repel.evaluation.geometry import shares
from repel.evaluation.top_items import KnownItems
from repel.interactions.pairs import InteractionInfo
from repel.losses.gradient_weights import NegativeWeights

__all__ = ["ItemNegatives", "UserItems", "user_items"]


class ItemNegatives(NamedTuple):
    """m users as anchors against n candidates.

    negative: (m, n) bool, items that are the user's negatives, before the strategy.
    known: (m, n) bool, items that the user has a training pair with.
    popularity: (m, n), log popularity of an item less the mean of all items; 0 where a candidate is no item.
    weight: (m, n), the gradient on each negative, see NegativeWeights, 0 elsewhere; None where the loss has none.
    """

    negative: Tensor
    known: Tensor
    popularity: Tensor
    weight: Tensor | None

    def known_rate(self) -> Tensor:
        """Share of known positives among the negatives, in [0, 1]."""
        return self.known[self.negative].float().mean()

    def candidate_popularity(self) -> Tensor:
        """Mean log popularity of the negatives, less that of all items."""
        return self._mean_popularity(self.negative.float())

    def pushed_popularity(self) -> Tensor:
        """The same where each negative counts by its share of the anchor's gradient; NaN without gradient."""
        assert self.weight is not None
        return self._mean_popularity(self.weight)

    def _mean_popularity(self, weight: Tensor) -> Tensor:
        rows = weight.sum(1) > 0
        return (shares(weight[rows]) * self.popularity[rows]).sum(1).mean()


class UserItems:
    """The items of each user, and the popularity of items, on the CPU.

    Args:
        info: of the training pairs.

    >>> pairs = UserItems(InteractionInfo(3, users=2, items=3, pairs=torch.tensor([[1, 2], [0, 1], [1, 1]])))
    >>> pairs.items_of(torch.tensor([1, 0])).tolist()
    [[False, True, True], [False, True, False]]
    """

    def __init__(self, info: InteractionInfo):
        assert info.pairs is not None
        self.users, self.items = info.users, info.items
        self.known = KnownItems.of(info.pairs.cpu(), info.users)
        popularity = (
            info.pairs[:, 1].cpu().bincount(minlength=info.items).clamp(min=1).log()
        )  # new items as those with one pair
        self.popularity = (popularity - popularity.mean()).float()

    def items_of(self, users: Tensor) -> Tensor:
        """(m, items) bool of users (m,): which items each has a pair with."""
        table = torch.zeros(len(users), self.items, dtype=torch.bool)
        table[self.known.cells(users.cpu())] = True
        return table

    def negatives(self, seen: NegativeWeights) -> ItemNegatives | None:
        """Users' negatives that are items; None where there are none."""
        if seen.anchor_ids is None or seen.candidate_ids is None:
            return None
        rows, device = (seen.anchor_ids < self.users).nonzero().squeeze(1), seen.negative.device
        item = seen.candidate_ids[rows] - self.users
        negative = seen.is_negative[rows] & (item >= 0)
        if not bool(negative.any()):
            return None
        place = item.clamp(min=0)
        known = self.items_of(seen.anchor_ids[rows]).to(device).gather(1, place) & negative
        popularity = self.popularity.to(device)[place].masked_fill(item < 0, 0)
        # synthetic negatives, which come last, are no item's
        weight = None if seen.weight is None else seen.weight[rows, : item.shape[1]].float() * negative
        return ItemNegatives(negative, known, popularity, weight)


_OF_DATA: WeakKeyDictionary[PairData, UserItems] = WeakKeyDictionary()  # which several callbacks ask for


def user_items(trainer: Trainer) -> UserItems | None:
    """Of a run on users and items; None for other data."""
    data = pair_data(trainer)
    if not data.splits.train.modality.sides:
        return None
    if data not in _OF_DATA:
        info = data.splits.train.info()
        assert isinstance(info, InteractionInfo)
        _OF_DATA[data] = UserItems(info)
    return _OF_DATA[data]
