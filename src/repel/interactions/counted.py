"""Users and items with how many pairs they have: what embed.py writes, and a report shows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repel.data.samples import Samples, Splits, split_parts
from repel.interactions.pairs import Entities, EntityStore

__all__ = ["CountedEntities", "counted_entities"]


@dataclass(frozen=True)
class CountedEntities(Entities):
    """counts: (N, S), pairs of each entity in each of the splits."""

    counts: Tensor | None = None
    splits: tuple[str, ...] = ()


def counted_entities(splits: Splits) -> dict[str, Samples]:
    """`users` and `items`, all of them, by name."""
    parts = split_parts(splits)
    store: EntityStore = splits.train.store  # type: ignore[attr-defined]
    found: dict[str, Samples] = {}
    sides = {"users": (store.all_users(), store.user_name), "items": (store.all_items(), store.item_name)}
    for side, (noun, (entities, name_of)) in enumerate(sides.items()):
        total = len(entities)
        counts = [part.x[:, side].bincount(minlength=total) for part in parts.values()]  # type: ignore[attr-defined]
        names = np.array([name_of(number) for number in range(total)])
        found[noun] = CountedEntities(entities.x, entities.labels, names, torch.stack(counts, 1), tuple(parts))
    return found
