"""What a step does without Lightning's and Hydra's general forms: the same values, by less work."""

import csv
from functools import partial

import pytest
import torch
from conftest import config
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.profilers import SimpleProfiler
from runs_here import fitted

from repel.engine import agreement
from repel.engine.build import build_trainer
from repel.engine.profiling import NoProfiler, make_profiler
from repel.model.optim import fill_length


class SeenMetrics(Callback):
    """What other callbacks may read after each step, and after each epoch."""

    def __init__(self):
        self.losses, self.values, self.logged = [], [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.losses.append(float(module.step_output.loss))
        known = trainer.callback_metrics.items()
        self.values.append({name: float(value) for name, value in known if "speed" not in name})
        self.logged.append(float(trainer.progress_bar_metrics.get("train/loss", 0)))

    def on_train_epoch_end(self, trainer, module):
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def log_by_lightning(trainer, module, name, value):
    module.log(name, value, on_step=True, on_epoch=False, prog_bar=True)


def watched(folder, *overrides):
    folder.mkdir(exist_ok=True)
    fitted(folder, *overrides, callback=(seen := SeenMetrics()))
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: value for name, value in row.items() if "speed" not in name} for row in csv.DictReader(file)]
    return seen, rows


@pytest.mark.parametrize("options", [
    ["trainer.val_check_interval=2"],  # validation within an epoch, where Lightning records other values
    ["trainer.accumulate_grad_batches=2", "loss.learn_temperature=true"],  # the loss logs in the same hook
])  # fmt: skip
def test_each_steps_loss_is_recorded_as_by_module_log(tmp_path, monkeypatch, options):
    short = [
        "logger=csv",
        "trainer.limit_train_batches=4",
        "callbacks.knn=null",
        "trainer.limit_val_batches=1",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
    ]
    names, log = [], LightningModule.log
    monkeypatch.setattr(
        LightningModule, "log", lambda self, name, *a, **k: names.append(name) or log(self, name, *a, **k)
    )
    seen, rows = watched(tmp_path / "record", *short, *options)
    assert names.count("train/loss") == 2  # once an epoch
    monkeypatch.setattr(agreement, "log_step_value", log_by_lightning)
    usual, usual_rows = watched(tmp_path / "log", *short, *options)
    assert rows == usual_rows
    assert (seen.losses, seen.values, seen.logged) == (usual.losses, usual.values, usual.logged)
    after_steps = [value for value in seen.values if isinstance(value, dict)]
    assert [value["train/loss"] for value in after_steps] == seen.losses
    assert len(set(seen.losses)) == len(seen.losses) > 4


def test_without_a_profiler_nothing_is_measured(tmp_path):
    trainer = build_trainer(config(), tmp_path)
    assert isinstance(trainer.profiler, NoProfiler)
    with trainer.profiler.profile("outer"), trainer.profiler.profile("inner"):
        pass
    with pytest.raises(KeyError), trainer.profiler.profile("failing"):
        raise KeyError
    assert trainer.profiler.summary() == ""
    assert isinstance(make_profiler("simple", tmp_path), SimpleProfiler)


def test_a_schedule_is_called_without_hydras_checks():
    """They were made when it was built."""
    built = instantiate({"_target_": "repel.model.optim.cosine", "_partial_": True, "warmup_epochs": 2,
                         "max_epochs": None, "final": 0.1})  # fmt: skip
    for epoch in torch.linspace(0, 10, 7).tolist():
        assert fill_length(built, 10.0)(epoch) == built(epoch, max_epochs=10.0)
    assert type(fill_length(built, 10.0)) is partial
    assert fill_length(partial(max, 1.0), 10.0)(0.5) == 1.0
