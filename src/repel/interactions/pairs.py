"""Interactions: pairs of a user and an item. Users and items are the nodes of one graph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repel.data.identity import mixed, name_keys
from repel.data.memory import TensorSamples
from repel.data.samples import DataInfo, Fetched
from repel.data.views import ViewDraws
from repel.interactions.item_texts import ItemTexts

if TYPE_CHECKING:
    from repel.interactions.modality import InteractionModality

__all__ = ["Entities", "EntityStore", "InteractionInfo", "Interactions", "PairBatch"]


class PairBatch(NamedTuple):
    """Pairs as views take them.

    nodes: (B, 2) int64, the user and the item of each; items are counted on from the users.
    users, items: how many there are.
    """

    nodes: Tensor
    users: int
    items: int


@dataclass(frozen=True)
class InteractionInfo(DataInfo):
    """What an encoder, a loss or a strategy may have to know of the training pairs.

    pairs: (E, 2) int32, the user, 0 .. users - 1, and the item, 0 .. items - 1, of each; no pair twice.
    user_features, item_features, item_labels, item_texts: see EntityStore.
    As an entity or a node, item i is users + i.
    """

    sides: ClassVar[int] = 2
    users: int = 0
    items: int = 0
    pairs: Tensor | None = None
    user_features: Tensor | None = None
    item_features: Tensor | None = None
    item_labels: Tensor | None = None
    item_texts: ItemTexts | None = None


@dataclass(frozen=True, eq=False)
class EntityStore:
    """Users and items of a log, which its splits share.

    Args:
        users, items: how many there are.
        user_names, item_names: what the log calls them, each another name; empty: by their numbers.
        item_titles: what people call the items, if that is something else; empty: by their names.
        item_labels: (items,) int64, what kind each item is of, -1 where unknown; or None.
        classes: names of these kinds.
        user_features, item_features: (users, F) and (items, F') float, what is known of each, for encoder=two_tower;
            or None.
        item_texts: what is written of the items, for encoder=two_tower_text; or None.
    """

    users: int
    items: int
    user_names: Sequence[str] = ()
    item_names: Sequence[str] = ()
    item_labels: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    item_titles: Sequence[str] = ()
    user_features: Tensor | None = None
    item_features: Tensor | None = None
    item_texts: ItemTexts | None = None

    def user_name(self, user: int) -> str:
        return self.user_names[user] if len(self.user_names) else str(user)

    def item_name(self, item: int) -> str:
        """For people: its title, else its name."""
        names = self.item_titles if len(self.item_titles) else self.item_names
        return names[item] if len(names) else str(item)

    @cached_property
    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """(users,) and (items,) uint64: hashes of their names."""
        users, items = (names if len(names) else map(str, range(count))
                        for names, count in ((self.user_names, self.users), (self.item_names, self.items)))  # fmt: skip
        return name_keys(users).numpy().view(np.uint64), name_keys(items).numpy().view(np.uint64)

    def pair_keys(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """(N,) int64 of two of N numbers: which pairs they are, whatever others there are."""
        user_keys, item_keys = self.keys
        return (mixed(user_keys)[users] + item_keys[items]).view(np.int64)

    def all_users(self) -> "Entities":
        """Every user, for an encoder."""
        return Entities(_as_input(torch.arange(self.users)), names=_array(self.user_names))

    def all_items(self) -> "Entities":
        """Every item, for an encoder, with its kind as label."""
        nodes = self.users + torch.arange(self.items)
        return Entities(_as_input(nodes), self.item_labels, _array(self.item_names))


@dataclass(frozen=True)
class Entities(TensorSamples):
    """Users, or items, by themselves: x (N, 2) int64, an encoder's input, see views.PairViews."""

    @property
    def description(self) -> str:
        return "users or items"

    @property
    def modality(self) -> "InteractionModality":
        from repel.interactions.modality import INTERACTIONS

        return INTERACTIONS


@dataclass(frozen=True)
class Interactions(TensorSamples):
    """Pairs: x (N, 2) int32, user and item, each counted from 0; without labels."""

    store: EntityStore = EntityStore(0, 0)

    @property
    def modality(self) -> "InteractionModality":
        from repel.interactions.modality import INTERACTIONS

        return INTERACTIONS

    @property
    def description(self) -> str:
        return f"pairs of {self.store.users:,} users and {self.store.items:,} items"

    def keys(self) -> Tensor:
        return torch.from_numpy(self.store.pair_keys(*self.x.cpu().numpy().T))

    def fetch(self, places: Tensor, draws: ViewDraws) -> Fetched:
        nodes = self.x[places.to(self.x.device, non_blocking=True)].long()
        nodes[:, 1] += self.store.users
        return Fetched(places, PairBatch(nodes, self.store.users, self.store.items), ids=nodes.T)

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Any, Tensor]]:
        """The items of the pairs."""
        for some in places:
            items = self.store.users + self.x[some, 1].long()
            yield _as_input(items), torch.ones(len(some), dtype=torch.bool)

    def info(self) -> InteractionInfo:
        store = self.store
        return InteractionInfo(
            len(self), users=store.users, items=store.items, pairs=self.x, user_features=store.user_features,
            item_features=store.item_features, item_labels=store.item_labels,
            item_texts=store.item_texts,
        )  # fmt: skip


def _as_input(nodes: Tensor) -> Tensor:
    """Nodes (n,) as an encoder takes them outside training: (n, 2), in graph 0, the one that is not augmented."""
    return torch.stack([nodes, torch.zeros_like(nodes)], 1)


def _array(names: Sequence[str]) -> np.ndarray | None:
    return np.array(names, dtype=object) if len(names) else None  # of strings, one may be as long as it likes
