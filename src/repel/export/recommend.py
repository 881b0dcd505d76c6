"""repel recommend: the items that a run ranks first for a user, or for somebody who has some items."""

import io
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.base.naming import close_names
from repel.data.samples import split_parts
from repel.engine.build import build_data
from repel.engine.configs import load_config, with_data_root
from repel.engine.data_identity import hint_of_data_root
from repel.engine.modalities import NOUNS, modality_of
from repel.engine.pretrained import load_pretrained
from repel.evaluation.features import encode
from repel.export.embed import label_words
from repel.interactions.pairs import EntityStore, Interactions

__all__ = ["Catalog", "Recommended", "open_catalog", "recommend_for_items", "recommend_for_user"]

MARKS = {"test": "hit", "val": "val", "train": "train"}  # split that the user's pair is of -> what is printed


class Recommended(NamedTuple):
    """One item of a ranking.

    cosine: in [-1, 1]. mark: `hit` where the user has it in the test split; `train`, `val`; `given`; or nothing.
    """

    cosine: float
    name: str
    label: str
    mark: str


class Catalog(NamedTuple):
    """A run's items and users: unit vectors of items (items, F), of a user (F,), and the pairs of each split."""

    items: Tensor
    user_vector: Any
    pairs: dict[str, Tensor]
    store: EntityStore


def open_catalog(ckpt: str, checkpoint: str | None, data_root: str | None) -> Catalog:
    """The vectors of a run, and its data, read again.

    Args:
        ckpt: a run folder or a checkpoint file.
        checkpoint: of a folder, best or last; None: the one whose metrics are called test/x.
        data_root: where the run's data is now, if it has moved.

    Raises:
        ValueError: there is no such run, or it did not learn from users and items.
    """
    trained = load_pretrained(ckpt, checkpoint)
    config = trained.config if data_root is None else with_data_root(trained.config, data_root)
    room = modality_of(config["data"]["datamodule"]["read"])
    if room not in ("interactions", None):
        raise ValueError(f"{ckpt} learned from {NOUNS[room]}: only a run on users and items recommends")
    loaded = load_config(config)
    data = build_data(loaded, trained.learned)
    with hint_of_data_root(loaded), redirect_stdout(io.StringIO()):  # training has said what the log holds
        parts = split_parts(data.read())
    train = parts["train"]
    if not isinstance(train, Interactions):
        raise ValueError(f"{ckpt} learned from {train.modality.noun}: only a run on users and items recommends")
    store, cpu = train.store, torch.device("cpu")

    def vectors(entities: Any) -> Tensor:
        return F.normalize(encode(trained.encoder, entities, data.normalize, cpu)[0], dim=1)

    def user_vector(user: int) -> Tensor:
        return vectors(store.all_users()[torch.tensor([user])])[0]

    pairs = {name: part.x for name, part in parts.items()}  # type: ignore[attr-defined]
    return Catalog(vectors(store.all_items()), user_vector, pairs, store)


def recommend_for_user(catalog: Catalog, user: str, k: int, exclude_known: bool) -> list[Recommended]:
    """The k items of the highest cosine with a user, the highest first.

    Args:
        user: the name, or the number where users have no names.
        exclude_known: leave out what the user has in the training and validation split.

    Raises:
        ValueError: there is no such user.
    """
    store = catalog.store
    number = _number(user, store.user_names, store.users, "user")
    marks: dict[int, str] = {}
    for split in MARKS:
        pairs = catalog.pairs.get(split)
        if pairs is not None:
            marks |= dict.fromkeys(pairs[pairs[:, 0] == number, 1].tolist(), MARKS[split])
    left_out = {item for item, mark in marks.items() if mark != "hit"} if exclude_known else set()
    return _ranked(catalog, catalog.user_vector(number), k, marks, left_out)


def recommend_for_items(catalog: Catalog, names: Sequence[str], k: int, exclude_known: bool) -> list[Recommended]:
    """The same for somebody new, whose vector is the mean of the items' unit vectors.

    Args:
        names: of items, as the log calls them, or as people do.

    Raises:
        ValueError: there is no such item.
    """
    store = catalog.store
    items = [_item(name, store) for name in names]
    vector = F.normalize(catalog.items[items].mean(0), dim=0)
    return _ranked(catalog, vector, k, dict.fromkeys(items, "given"), set(items) if exclude_known else set())


def _ranked(
    catalog: Catalog, vector: Tensor, k: int, marks: dict[int, str], left_out: Collection[int]
) -> list[Recommended]:
    store = catalog.store
    cosines = (catalog.items @ vector).index_fill(0, torch.tensor(sorted(left_out), dtype=torch.int64), -torch.inf)
    values, places = cosines.sort(descending=True, stable=True)  # of equal ones the lowest number first
    shown = min(k, store.items - len(left_out))
    words = label_words(store.all_items(), store.classes) or [""] * store.items
    return [
        Recommended(value, store.item_name(item), words[item], marks.get(item, ""))
        for value, item in zip(values[:shown].tolist(), places[:shown].tolist(), strict=True)
    ]


def _item(name: str, store: EntityStore) -> int:
    """The number of an item, by its name or by a title that no other has."""
    titles = list(store.item_titles)
    if name not in store.item_names and titles.count(name) == 1:
        return titles.index(name)
    return _number(name, store.item_names, store.items, "item")


def _number(name: str, names: Sequence[str], total: int, noun: str) -> int:
    """The number of a user or an item.

    Raises:
        ValueError: there is none of this name.
    """
    if len(names):
        known = list(names)
        if name not in known:
            raise ValueError(f"there is no {noun} {name}{close_names(name, known)}")
        return known.index(name)
    if not name.isdecimal() or int(name) >= total:
        raise ValueError(f"there is no {noun} {name}: this data has numbers, 0 to {total - 1}")
    return int(name)
