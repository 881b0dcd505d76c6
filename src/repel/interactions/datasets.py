"""Readers of known logs."""

import bz2
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources

import numpy as np
import torch

from repel.data.samples import Splits
from repel.interactions.item_texts import ItemTexts, Tokenize
from repel.interactions.pairs import EntityStore, Interactions

__all__ = ["debian_mini"]


def debian_mini(tokenize: Tokenize | None = None) -> Splits:
    """The bundled dependencies of Debian 12.15 (bookworm, main, amd64): which packages does a source package need?

    Users are 6,673 source packages, items the 1,744 packages that they depend on, the kind of an item is its section:
    libs, python, perl, ... Every user has at least 6 items, every item at least 8 users. 79,071 pairs, divided 8:1:1
    for each user; scripts/build_debian_mini.py says how. The text of an item is its name, such as libglib2.0-dev.

    Args:
        tokenize: see item_texts.ItemTexts; None: without texts.

    >>> splits = debian_mini()
    >>> len(splits.train), len(splits.val), len(splits.test)
    (61235, 8918, 8918)
    >>> store = splits.train.store
    >>> user, item = splits.test.x[0].tolist()
    >>> store.user_name(user), store.item_name(item), store.classes[store.item_labels[item]]
    ('0ad', 'dpkg', 'admin')
    """
    file = resources.files("repel.interactions").joinpath("debian_mini/dependencies.tsv.bz2")
    rows = [line.split("\t") for line in bz2.decompress(file.read_bytes()).decode("utf-8").splitlines()]
    items, users = ([row[1:] for row in rows if row[0] == side] for side in ("item", "user"))
    classes = sorted({section for _, section in items})
    labels = torch.tensor([classes.index(section) for _, section in items])
    names = [user[0] for user in users], [name for name, _ in items]
    store = EntityStore(len(users), len(items), *names, labels, classes)
    if tokenize is not None:
        store = replace(store, item_texts=ItemTexts(store.item_names, tokenize))
    train, val, test = (Interactions(_pairs(user[column] for user in users), store=store) for column in (1, 2, 3))
    return Splits(train, test, val)


def _pairs(items_of_users: Iterator[str]) -> torch.Tensor:
    """(N, 2) int32 of a string of item numbers for each user."""
    pairs = [(user, item) for user, items in enumerate(items_of_users) for item in items.split()]
    return torch.from_numpy(np.array(pairs).astype(np.int32))
