"""Runs on a few made pairs of users and items, in LightGCN's format."""

from pathlib import Path

import numpy as np
import torch
from conftest import config
from omegaconf import DictConfig

from repel.engine import checkpoint_io, runs
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit

USERS, ITEMS, GROUPS = 40, 24, 4
# a run of a second
SMALL = ["experiment=ssm", "encoder.width=8", "data.batch_size=32", "trainer.max_epochs=2",
         "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "callbacks.pairs=null", "callbacks.progress=null",
         "logger.tensorboard=null", "evaluators=[]", "data.val_fraction=0.1",
         "evaluation.checkpoint=last", "negatives=uniform"]  # fmt: skip
# the same without the preset, whose temperature not every loss has
PLAIN = ["loss=infonce", "views=user_item", "encoder=table", "head=identity", "optimizer=adam",
         "callbacks=recommendation", *SMALL[1:]]  # fmt: skip
# users and items each against their own kind in another graph, beside the pair
SUM = ["loss=joint", "loss.members.labels=null", "loss.members.samples.views=[0,1]",
       "+loss.members.users={loss:${loss.members.samples.loss},views:[2,3],weight:0.1}",
       "+loss.members.items={loss:${loss.members.samples.loss},views:[4,5],weight:0.1}"]  # fmt: skip
METHODS = {  # of several parts
    "bpr": ["loss.symmetric=false", "views.negatives=1", "negatives=own_negatives", "negatives.only=true"],
    "dns": ["loss.symmetric=false", "views.negatives=4", "negatives=own_negatives", "negatives.weight=2.0"],
    "catalog": ["loss.symmetric=false", "loss.candidates=catalog", "negatives=known"],
    "queue": ["loss.symmetric=false", "queue.size=64", "target=ema", "negatives=popularity"],
    "sgl": ["encoder=lightgcn", "encoder.augment=edges", "views=sgl", "negatives=known", *SUM],
    "simgcl": ["encoder=lightgcn", "encoder.augment=noise", "views=sgl", *SUM],
}


def write_pairs(folder: Path) -> list[str]:
    """train.txt, test.txt, items.csv: each user takes items of its own group, first ones more often; what to type."""
    draws = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(USERS):
        own = np.arange(user % GROUPS, ITEMS, GROUPS)
        taken = draws.choice(own, 4, replace=False, p=(odds := 1 / (1 + np.arange(len(own)))) / odds.sum())
        lines["train"].append(" ".join(map(str, [user, *taken[:3]])))
        lines["test"].append(f"{user} {taken[3]}")
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    texts = [f"{item},{'abcd'[item % GROUPS]} of {item % 5}" * (item > 0) for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,text", *texts]) + "\n", encoding="utf-8")
    return ["data=interactions_lightgcn", f"data.root={folder}"]


def pair_config(data: list[str], *overrides: str) -> DictConfig:
    return config(*SMALL, *data, *overrides)


def pair_run(folder: Path, *overrides: str) -> Path:
    """A trained run, as train.py leaves it, of pairs that are written beside it."""
    cfg = pair_config(write_pairs(folder.with_name(f"{folder.name}_pairs")), *overrides)
    runs.create(folder, to_container(cfg), list(overrides))
    fit(load_config(runs.current_config(folder)), folder, resume=False)
    return folder


def weights(run: Path) -> torch.Tensor:
    """The table of a run's last checkpoint, users before items."""
    found: torch.Tensor = checkpoint_io.load(run / "checkpoints/last.ckpt")["state_dict"]["encoder.vectors.weight"]
    return found


def fit_pairs(cfg: DictConfig, folder: Path) -> None:
    """Train a new run, on each of its ranks."""
    fit(cfg, folder, resume=False)
