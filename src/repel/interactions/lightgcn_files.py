"""Logs in the format of LightGCN's repository: `train.txt` and `test.txt`, a line a user: `user item item ...`."""

from pathlib import Path

import numpy as np
import torch

from repel.base import seeding
from repel.data.samples import Splits
from repel.interactions.pairs import EntityStore, Interactions

__all__ = ["interactions_lightgcn"]


def interactions_lightgcn(root: str, val_fraction: float, split_seed: int) -> Splits:
    """The log as its files split it; a part of each user's training pairs is held out for validation.

    Args:
        root: the folder.
        val_fraction: of the training pairs.
        split_seed: which.
    """
    train, test = (_pairs(Path(root) / f"{name}.txt") for name in ("train", "test"))
    users, items = (int(max(train[:, side].max(), test[:, side].max())) + 1 for side in (0, 1))
    store = EntityStore(users, items)
    draws = torch.rand(len(train), generator=seeding.generator(split_seed, seeding.SPLIT)).numpy()
    held_out = draws < val_fraction
    parts = (torch.from_numpy(rows) for rows in (train[~held_out], train[held_out], test))
    kept, val, tested = (Interactions(x, store=store) for x in parts)
    return Splits(kept, tested, val)


def _pairs(file: Path) -> np.ndarray:
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    return np.array([(row[0], item) for row in rows if row for item in row[1:]], dtype=np.int32)
