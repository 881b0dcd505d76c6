"""Small runs on users and items, in a made folder."""

from pathlib import Path

import numpy as np
from conftest import config

from repel.engine import runs
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit

USERS, ITEMS, GROUPS = 60, 30, 3
# a run of a second
QUICK = ["experiment=recommendation", "data=interactions_lightgcn", "encoder.width=8",
         "data.batch_size=64", "trainer.max_epochs=2", "callbacks.progress=null", "callbacks.pairs=null",
         "callbacks.monitor=null", "callbacks.health=null", "logger.tensorboard=null",
         "trainer.accelerator=cpu"]  # fmt: skip


def make_log(folder: Path, seed: int = 0) -> Path:
    """train.txt and test.txt: users take mostly items of their own group, and popular ones more often."""
    draws = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(USERS):
        weights = 1 / (2 + np.arange(ITEMS)) * np.where(np.arange(ITEMS) % GROUPS == user % GROUPS, 8, 1)
        items = draws.choice(ITEMS, 9, replace=False, p=weights / weights.sum())
        for name, part in (("train", items[2:]), ("test", items[:2])):
            lines[name].append(" ".join(map(str, [user, *part])))
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def pair_config(log: Path, *overrides: str):
    return config(*QUICK, f"data.root={log}", *overrides)


def train_pairs(log: Path, folder: Path, *overrides: str):
    """Train in this process; returns the config and the data as read."""
    cfg = pair_config(log, *overrides)
    runs.create(folder, to_container(cfg), ["experiment=recommendation", *overrides])
    cfg = load_config(runs.current_config(folder))
    return cfg, fit(cfg, folder, resume=False)
