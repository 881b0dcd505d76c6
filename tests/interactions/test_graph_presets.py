"""experiment=sgl, simgcl and xsimgcl: the loss against its equation; runs over ranks, and killed ones."""

import signal
from pathlib import Path

import pytest
import ranks
import torch
from conftest import config, same
from pair_runs import make_log, pair_config
from runs_here import history, train_until_killed
from token_modality import on_ranks
from torch import Tensor

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit

PRESETS = {  # views of users and of items, their weight and temperature
    "sgl": ([2, 3], [4, 5], 0.1, 0.2),
    "simgcl": ([2, 3], [4, 5], 0.5, 0.2),
    "xsimgcl": ([0, 2], [1, 3], 0.2, 0.15),
}


def info_nce(anchors: Tensor, positives: Tensor, ids: list[int], own: list[set[int]], t: float) -> Tensor:
    """-log e^(s_ii / t) / sum over j of e^(s_ij / t), without candidates that the anchor's own sample shows."""
    total = torch.zeros((), dtype=torch.float64)
    for i, anchor in enumerate(anchors):
        s = [torch.dot(anchor, x) / (anchor.norm() * x.norm()) / t for x in positives]
        others = [s[j].exp() for j in range(len(s)) if j != i and ids[j] not in own[i]]
        total = total - (s[i].exp() / (s[i].exp() + sum(others))).log()
    return total / len(anchors)


@pytest.mark.parametrize("name", PRESETS)
def test_the_loss_is_that_of_pairs_and_of_each_side_in_two_graphs(name):
    user_views, item_views, weight, t = PRESETS[name]
    loss = build_module(config(f"experiment={name}", "encoder.width=4", "negatives=uniform")).loss
    pairs = torch.tensor([[0, 10], [1, 11], [0, 12], [2, 11], [3, 13]])  # a user, and an item, who repeat
    shown = [0, 1, 0, 1] if name == "xsimgcl" else [0, 1, 0, 0, 1, 1]
    ids = pairs.T[shown]
    z = torch.randn(len(shown), 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    both = [set(pair) for pair in pairs.tolist()]
    users, items = ([{number} for number in side.tolist()] for side in pairs.T)
    by_user = info_nce(z[0], z[1], pairs[:, 1].tolist(), both, 0.1)
    same_user = info_nce(z[user_views[0]], z[user_views[1]], pairs[:, 0].tolist(), users, t)
    same_item = info_nce(z[item_views[0]], z[item_views[1]], pairs[:, 1].tolist(), items, t)
    theirs = by_user + weight * (same_user + same_item)
    ours = loss(z, None, ids)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(value, z)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def fit_here(cfg, folder: Path) -> None:
    fit(cfg, folder, resume=False)


def new_run(log: Path, folder: Path, name: str, *typed: str):
    cfg = pair_config(log, f"experiment={name}", "trainer.precision=64-true", "evaluators=[]", *typed)
    runs.create(folder, to_container(cfg), [])
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simgcl", "xsimgcl"])
def test_any_number_of_ranks_trains_the_same(name, tmp_path):
    """20 steps in float64: the same noise on every rank; SGL's graphs are in test_pair_steps.py."""
    log, found = make_log(tmp_path / "log"), {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        cfg = new_run(log, folder, name, "trainer.max_epochs=4", "trainer.limit_train_batches=5",
                      f"trainer.devices={world}")  # fmt: skip
        on_ranks(fit_here, cfg, folder, world)
        losses = [float(value) for row in history(folder) if (value := row["train/loss"])]
        found[world] = checkpoint_io.load(folder / "checkpoints/last.ckpt"), losses
    assert found[1][0]["global_step"] == 20
    for key, one in found[1][0]["state_dict"].items():
        torch.testing.assert_close(found[2][0]["state_dict"][key], one, rtol=0, atol=1e-12)
    assert found[2][1] == pytest.approx(found[1][1], abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_killed_and_resumed_equals_never_killed(name, tmp_path):
    """kill -9 in the middle of an epoch: the same bits."""
    log, folders = make_log(tmp_path / "log"), [tmp_path / "killed", tmp_path / "whole"]
    for folder in folders:
        new_run(log, folder, name, "trainer.limit_train_batches=4", "callbacks.last.every_n_train_steps=1")
    process = ranks.forked(train_until_killed, str(folders[0]), 6)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    for folder, resume in zip(folders, (True, False), strict=True):
        fit(load_config(runs.current_config(folder)), folder, resume)
    killed, whole = (checkpoint_io.load(folder / "checkpoints/last.ckpt") for folder in folders)
    assert whole["global_step"] == 8
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(whole[part], killed[part]), part
