"""A few steps with every choice of the groups that stand around a loss, several of them in one run."""

import pytest
import torch
from conftest import CONF, TINY, config, options, options_of, thinned
from omegaconf import OmegaConf
from runs_here import status

from repel.engine.build import build_trainer

OPTIONS = {"encoder=timm": ["encoder.name=resnet10t"], "encoder=small": ["encoder.width=4"]}
# what needs a package (tests/monitoring/test_services.py), several ranks, a GPU, a certain encoder, or users and items
# (tests/interactions/test_interaction_presets.py)
ELSEWHERE = {
    "callbacks": ["recommendation"],
    "head": ["identity"],
    "logger": ["mlflow", "wandb"],
    "trainer": ["ddp", "gpu"],
}
GROUPS = {group: options(group) for group in ("optimizer", "head", "schedule")}
GROUPS["encoder"] = options_of("encoder", "images")
GROUPS |= {"callbacks": options("callbacks"), "logger": options("logger"), "trainer": options("trainer")}
SMALL = [option for option in TINY if "callbacks" not in option and "width" not in option]


def choices(number: int) -> list[str]:
    """One of every group: over all numbers, each choice at least once."""
    found = []
    for group, names in GROUPS.items():
        here = [name for name in names if name not in ELSEWHERE.get(group, ())]
        choice = f"{group}={here[number % len(here)]}"
        found += [choice, *OPTIONS.get(choice, [])]
    return found


RUNS = max(map(len, GROUPS.values()))


@pytest.mark.parametrize("number", thinned(map(str, range(RUNS)), RUNS))
def test_each_choice_trains(number, tmp_path):
    typed = choices(int(number))
    limits = ["trainer.max_steps=2", "data.image_size=8", "data.batch_size=8", "optimizer.scale_lr=linear"]
    assert status(tmp_path, *SMALL, *typed, *limits) == (0, ""), typed
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert all(value.isfinite().all() for value in last["state_dict"].values() if value.is_floating_point())
    for logger, files in {"csv": "metrics.csv", "tensorboard": "events.out.tfevents.*"}.items():
        assert any(tmp_path.glob(files)) == (f"logger={logger}" in typed or "logger=default" in typed)


def test_the_trainer_of_several_ranks_and_of_a_gpu():
    """What trains elsewhere: tests/engine/test_distributed.py."""
    ddp, gpu = (OmegaConf.load(CONF / f"trainer/{name}.yaml") for name in ELSEWHERE["trainer"])
    assert ddp == {"defaults": ["default"], "devices": 2}
    assert gpu == {"defaults": ["default"], "accelerator": "gpu"}


def test_without_loggers_nothing_asks_for_one(tmp_path):
    cfg = config()
    names = [type(callback).__name__ for callback in build_trainer(cfg, tmp_path).callbacks]
    for off in ({}, {"tensorboard": None, "csv": None}):  # logger=none, and each left out
        cfg.logger = off
        trainer = build_trainer(cfg, tmp_path)
        assert trainer.loggers == []
        kept = [type(callback).__name__ for callback in trainer.callbacks]
        assert kept == [name for name in names if name != "LearningRateMonitor"]


def test_without_callbacks_checkpoints_stay(tmp_path):
    names = [type(callback).__name__ for callback in build_trainer(config("callbacks=none"), tmp_path).callbacks]
    assert {"LastCheckpoint", "BestCheckpoint"} < set(names)
    assert not {"Monitor", "Health", "Progress", "ValidationKNN", "PairsGrid", "Speed"} & set(names)
