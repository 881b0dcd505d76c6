"""Runs of six optimizer steps with everything that has a state, and what must be the same of two of them."""

import csv
from pathlib import Path

import pytest
import ranks
from conftest import config, make_folder, same

from repel.engine import checkpoint_io

# three epochs of two optimizer steps, each of two batches, with everything that has a state
STATEFUL = [
    "experiment=debug", "head.out_features=8", "data.batch_size=16", "callbacks.pairs=null", "evaluators=[]",
    "trainer.max_epochs=3", "trainer.accumulate_grad_batches=2", "schedule.warmup_epochs=2", "target=ema",
    "queue.size=40", "callbacks.monitor=null", "callbacks.knn=null", "data.val_fraction=0.01",
    "encoder=timm", "encoder.name=vit_tiny_patch16_224",
    "+encoder.options={img_size:28,patch_size:14,embed_dim:8,depth:1,num_heads:2,pos_drop_rate:0.3,proj_drop_rate:0.3}",
]  # fmt: skip
FOLDER = ["data=image_folder", "data.image_size=28", "data.batch_size=8", "data.val_fraction=0.1"]
STEPS = 6
EVERY = "callbacks.last.every_n_train_steps=1"


def last(folder: Path) -> dict:
    return checkpoint_io.load(folder / "checkpoints/last.ckpt")


def losses(folder: Path) -> dict[int, str]:
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


def assert_same_run(folder: Path, other: Path, lost: int = 0) -> None:
    """Weights, optimizer, schedule, queue, target and the history of the loss, bit for bit.

    lost: rows of the history that may be missing: Lightning writes a step's after the step's checkpoint.
    """
    one, two = last(folder), last(other)
    assert one["global_step"] == two["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(one[part], two[part]), part
    here, there = losses(folder), losses(other)
    assert here.items() <= there.items()
    assert len(there) - len(here) <= lost


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run that nothing befell, by number of ranks and data."""
    made = {}

    def run(world: int, *overrides: str) -> Path:
        if (world, overrides) not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            assert ranks.run(config(*STATEFUL, *overrides, f"trainer.devices={world}"), folder) == [0] * world
            made[world, overrides] = folder
        return made[world, overrides]

    return run


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"), ["red", "green"], 30)
