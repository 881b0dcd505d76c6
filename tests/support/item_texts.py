"""Logs whose items have texts that say who takes them, some items without a training pair."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repel.data.samples import give_info
from repel.interactions.item_texts import ItemTexts
from repel.interactions.pairs import EntityStore, InteractionInfo, Interactions
from repel.interactions.two_tower import TwoTower
from repel.text.learned_tokens import learned_tokens

USERS, ITEMS = 4, 6
PAIRS = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]], dtype=torch.int32)  # the last item has none
TEXTS = ["red bird", "blue bird of the sea", "", "red sea", "bird", "the red bird of the sea"]

GROUPS, PER_GROUP, COLD = 5, 8, 2  # of a log: groups of items and users; items of each that are in no training pair
# of items that are in no training pair each word is known from others, and no others have all of them
WORDS = [f"topic{group} {'abcd'[n % 4]} {'ef'[n // 4]}" for group in range(GROUPS) for n in range(PER_GROUP)]


def info(texts: list[str] | None = TEXTS) -> InteractionInfo:
    of_items = None if texts is None else ItemTexts(texts, learned_tokens)
    found = Interactions(PAIRS, store=EntityStore(USERS, len(TEXTS), item_texts=of_items)).info()
    assert isinstance(found, InteractionInfo)
    return found


def towers(item_text: nn.Module | None, **options) -> TwoTower:
    """An encoder that knows the data, in float64 and eval mode."""
    torch.manual_seed(0)
    encoder = TwoTower(width=5, item_text=item_text, **options)
    give_info(encoder, info())
    return encoder.double().eval()


def nodes(*numbers: int) -> Tensor:
    """Items as an encoder takes them."""
    return torch.tensor([[USERS + number, 0] for number in numbers])


def write_log(folder: Path) -> list[str]:
    """train.csv, val.csv, test.csv and items.csv: users take items of their group; what to type."""
    draws = np.random.default_rng(0)
    folder.mkdir(parents=True)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for user in range(12 * GROUPS):
        own = PER_GROUP * (user % GROUPS) + np.arange(PER_GROUP)
        for item in draws.choice(own[:-COLD], 3, replace=False):
            parts["train"].append((f"u{user}", f"i{item}"))
        for part, item in zip(("val", "test"), own[-COLD:], strict=True):
            parts[part].append((f"u{user}", f"i{item}"))
    for part, rows in parts.items():
        _write(folder / f"{part}.csv", ("user", "item"), rows)
    _write(folder.with_suffix(".csv"), ("item", "about"), [(f"i{n}", text) for n, text in enumerate(WORDS)])
    return ["data=interactions_csv", f"data.root={folder}", f"data.items={folder.with_suffix('.csv')}",
            "data.item_text=about"]  # fmt: skip


def _write(file: Path, header: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
