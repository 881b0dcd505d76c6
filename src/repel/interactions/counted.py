"""Users and items with how many pairs they have, as embed.py writes them."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from repel.data.samples import Samples, Splits, split_parts
from repel.interactions.pairs import Entities, EntityStore

__all__ = ["CountedEntities", "counted_entities"]


@dataclass(frozen=True)
class CountedEntities(Entities):
    """counts: split -> (N,), pairs of each entity."""

    counts: dict[str, Tensor] = field(default_factory=dict)


def counted_entities(splits: Splits) -> dict[str, Samples]:
    """`users` and `items`, all of them, by name."""
    parts = split_parts(splits)
    store: EntityStore = splits.train.store  # type: ignore[attr-defined]
    found: dict[str, Samples] = {}
    sides = (store.all_users(), store.user_name), (store.all_items(), store.item_name)
    for side, (entities, name_of) in enumerate(sides):
        total = len(entities)
        counts = {name: part.x[:, side].bincount(minlength=total) for name, part in parts.items()}  # type: ignore[attr-defined]
        names = np.array([name_of(number) for number in range(total)])
        found["users" if side == 0 else "items"] = CountedEntities(entities.x, entities.labels, names, counts)
    return found
