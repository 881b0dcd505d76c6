"""Training on users and items: the same on any number of ranks, and after kill -9."""

import signal
from pathlib import Path

import pytest
import ranks
import torch
from conftest import config, same
from item_runs import METHODS, PLAIN, fit_pairs, write_pairs
from runs_here import history, train_until_killed
from token_modality import on_ranks

from repel.engine import checkpoint_io, runs
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit

# known pairs out, then logQ
CHAIN = ["negatives=chain", "negatives.strategies=[{_target_:repel.negatives.known.Known},"
         "{_target_:repel.negatives.popularity.Popularity,power:1.0,positive:sampled}]"]  # fmt: skip
TEXTS = ["encoder=two_tower_text", "encoder@encoder.item_text=transformer", "encoder.item_text.width=8", "views=towers",
         "encoder.item_text.heads=2", "encoder.item_text.layers=1", "encoder.width=8", "data.item_text=text",
         *METHODS["catalog"]]  # fmt: skip
RUNS = {"table": CHAIN, "texts": TEXTS, **{name: METHODS[name] for name in ("sgl", "bpr", "catalog")}}
STEPS = ["data.batch_size=16", "data.val_fraction=0.25", "trainer.max_epochs=5", "trainer.max_steps=20",
         "callbacks.ranking=null", "callbacks.monitor=null", "optimizer.lr=0.01"]  # fmt: skip


def new_run(folder: Path, name: str, *typed: str):
    changed = {option.split("=")[0] for option in STEPS}
    plain = [option for option in PLAIN if option.split("=")[0] not in changed]
    log = folder.with_name("log")
    items = [f"data.items={log / 'items.csv'}"] if name == "texts" else []
    cfg = config(*plain, *STEPS, *RUNS[name], *typed, *write_pairs(log), *items)
    runs.create(folder, to_container(cfg), [])
    return cfg


def state(folder: Path) -> dict:
    return checkpoint_io.load(folder / "checkpoints/last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_any_number_of_ranks_trains_the_same(tmp_path, name):
    """20 steps in float64: order, draws of graphs and items, gather, gradients, schedule, validation."""
    found, several = {}, [2, 4] if name == "table" else [2]
    for world in (1, *several):
        folder = tmp_path / str(world)
        cfg = new_run(folder, name, "trainer.precision=64-true", f"trainer.devices={world}")
        on_ranks(fit_pairs, cfg, folder, world)
        found[world] = state(folder), [(row["train/loss"], row["val/loss"]) for row in history(folder)]
    assert found[1][0]["global_step"] == 20
    for world in several:
        for key, one in found[1][0]["state_dict"].items():
            torch.testing.assert_close(
                found[world][0]["state_dict"][key], one, rtol=0, atol=1e-12, msg=f"{world}: {key}"
            )
        for mine, first in zip(found[world][1], found[1][1], strict=True):
            for a, b in zip(mine, first, strict=True):
                assert a == b == "" or float(a) == pytest.approx(float(b), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table", "sgl", "bpr", "texts"])
def test_killed_and_resumed_equals_never_killed(tmp_path, name):
    """kill -9 in the middle of the second epoch: the same bits, what the encoder and the views draw included."""
    new_run(tmp_path / "killed", name, "callbacks.last.every_n_train_steps=1")
    process = ranks.forked(train_until_killed, str(tmp_path / "killed"), 8)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert state(tmp_path / "killed")["global_step"] == 8
    fit(load_config(runs.current_config(tmp_path / "killed")), tmp_path / "killed", resume=True)
    fit(new_run(tmp_path / "whole", name), tmp_path / "whole", resume=False)
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert whole["global_step"] == 20
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(whole[part], resumed[part]), part
