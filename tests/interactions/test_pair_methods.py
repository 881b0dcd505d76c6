"""Every loss with every strategy trains on users and items, or is refused with a reason."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from composing import CONF, composed
from conftest import thinned
from item_runs import ITEMS, METHODS, PLAIN, USERS, write_pairs
from loss_cases import PAIRS, REFUSED, covering
from omegaconf import OmegaConf
from runs_here import history, status_of

from repel.engine import checkpoint_io

QUICK = [*PLAIN, "trainer.max_epochs=1", "trainer.max_steps=2", "callbacks.ranking=null"]


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


NO_LABELS = {pair for pair in PAIRS if pair[0] in ("supcon", "joint")}
NO_NEGATIVES_GIVEN = {pair for pair in set(PAIRS) - NO_LABELS if pair[1] == "own_negatives"}
TRAINS = [pair for pair in PAIRS if pair not in NO_NEGATIVES_GIVEN | NO_LABELS]


def names(pairs) -> list[str]:
    return ["-".join(pair) for pair in pairs]


def config_of(case: str, folder):
    loss, strategy = case.split("-")
    cfg = copy.deepcopy(base(f"loss={loss}", *(["predictor=mlp"] if loss == "byol" else [])))
    cfg._set_flag("struct", False)
    cfg.negatives = OmegaConf.load(CONF / f"negatives/{strategy}.yaml")
    cfg.hydra.runtime.choices.negatives = strategy
    if strategy == "guide":
        cfg.negatives.embeddings = str(folder / "guide.npz")
        guide = np.random.default_rng(0).normal(size=(USERS + ITEMS, 3))
        np.savez(folder / "guide.npz", ids=np.arange(len(guide)), embeddings=guide)
    return cfg


# every pair's gradient is in test_pair_gradients.py
@pytest.mark.parametrize("case", thinned(names(covering(TRAINS)), 7))
def test_a_loss_with_a_strategy_trains(case, tmp_path, monkeypatch):
    code, line = run(tmp_path, config_of(case, tmp_path), monkeypatch)
    assert code == 0, line
    check_trained(tmp_path / "run")


REASONS = {"negatives": REFUSED, "explicit negatives": NO_NEGATIVES_GIVEN, "labels": NO_LABELS}


@pytest.mark.parametrize(
    "case", thinned([f"{name}: {word}" for word, of in REASONS.items() for name in names(covering(sorted(of)))], 15)
)
def test_a_loss_with_a_strategy_says_why_it_does_not(case, tmp_path, monkeypatch):
    name, word = case.split(": ")
    code, line = run(tmp_path, config_of(name, tmp_path), monkeypatch)
    assert code == 2, line
    assert word in line
    assert not (tmp_path / "run/checkpoints").exists()


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
