"""Every loss with every strategy trains on users and items, or is refused with a reason."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from composing import CONF, composed
from conftest import thinned
from item_runs import ITEMS, PLAIN, USERS, write_pairs
from loss_cases import MATRIX, REFUSED
from omegaconf import OmegaConf
from runs_here import history, status_of

from repel.engine import checkpoint_io

QUICK = [*PLAIN, "trainer.max_epochs=1", "trainer.max_steps=2", "callbacks.ranking=null"]
SUM = ["loss=joint", "loss.members.labels=null", "loss.members.samples.views=[0,1]",
       "+loss.members.users={loss:${loss.members.samples.loss},views:[2,3],weight:0.1}",
       "+loss.members.items={loss:${loss.members.samples.loss},views:[4,5],weight:0.1}"]  # fmt: skip
METHODS = {
    "bpr": ["loss.symmetric=false", "views.negatives=1", "negatives=own_negatives", "negatives.only=true"],
    "dns": ["loss.symmetric=false", "views.negatives=4", "negatives=own_negatives", "negatives.weight=2.0"],
    "catalog": ["loss.symmetric=false", "loss.candidates=catalog", "negatives=known"],
    "queue": ["loss.symmetric=false", "queue.size=64", "target=ema", "negatives=popularity"],
    "sgl": ["encoder=lightgcn", "encoder.augment=edges", "views=sgl", "negatives=known", *SUM],
    "simgcl": ["encoder=lightgcn", "encoder.augment=noise", "views=sgl", *SUM],
}


@functools.cache
def base(*typed: str):
    """The composed config of a run whose log is not there yet."""
    return composed("train", [*QUICK, *typed, "data=interactions_lightgcn", "data.root=none"], hydra=True)


def run(folder, cfg, monkeypatch) -> tuple[int, str]:
    for name in ("check_types", "baseline"):  # they compose once more for each case; tests/cli tests them
        monkeypatch.setattr(f"repel.cli.checks.{name}", lambda *args: None)
    write_pairs(folder / "log")
    cfg.data.root = str(folder / "log")
    code, line = status_of(folder / "run", cfg)
    assert "\n" not in line
    return code, line


def check_trained(folder) -> None:
    last = checkpoint_io.load(folder / "checkpoints/last.ckpt")
    assert last["global_step"] == 2
    assert all(torch.isfinite(v).all() for v in last["state_dict"].values() if v.is_floating_point())
    losses = [float(row["train/loss"]) for row in history(folder) if row["train/loss"]]
    assert losses
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("case", thinned(["-".join(pair) for pair in MATRIX], 61))
def test_a_loss_with_a_strategy_trains_or_says_why_not(case, tmp_path, monkeypatch):
    loss, strategy = case.split("-")
    cfg = copy.deepcopy(base(f"loss={loss}", *(["predictor=mlp"] if loss == "byol" else [])))
    cfg._set_flag("struct", False)
    cfg.negatives = OmegaConf.load(CONF / f"negatives/{strategy}.yaml")
    cfg.hydra.runtime.choices.negatives = strategy
    if strategy == "guide":
        cfg.negatives.embeddings = str(tmp_path / "guide.npz")
        guide = np.random.default_rng(0).normal(size=(USERS + ITEMS, 3))
        np.savez(tmp_path / "guide.npz", ids=np.arange(len(guide)), embeddings=guide)
    code, line = run(tmp_path, cfg, monkeypatch)
    reasons = {"negatives": (loss, strategy) in REFUSED, "explicit negatives": strategy == "own_negatives",
               "labels": loss in ("supcon", "joint")}  # fmt: skip
    if any(reasons.values()):
        assert code == 2, line
        assert any(word in line for word, holds in reasons.items() if holds), line
        assert not (tmp_path / "run/checkpoints").exists()
    else:
        assert code == 0, line
        check_trained(tmp_path / "run")


@pytest.mark.parametrize("name", thinned(METHODS, 4))
def test_a_method_trains(name, tmp_path, monkeypatch):
    """With what the monitor and health say of it."""
    code, line = run(tmp_path, copy.deepcopy(base(*METHODS[name])), monkeypatch)
    assert code == 0, line
    check_trained(tmp_path / "run")
    (row,) = [row for row in history(tmp_path / "run") if row["negatives/number"]][:1]
    expected = {"bpr": 0.9, "catalog": ITEMS - 4}
    if name in expected:  # bpr: one each, less draws of the pair's own item; a user has up to 3 known items
        assert float(row["negatives/number"]) >= expected[name]
