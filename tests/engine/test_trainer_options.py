"""Options of Lightning's Trainer: batches, validation within epochs, profiles."""

import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from conftest import config, same
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from runs_here import history, train

from repel.base.signals import Stopped
from repel.engine import checkpoint_callbacks, checkpoint_io
from repel.engine.build import build_trainer
from repel.engine.checkpoint_callbacks import BestCheckpoint
from repel.engine.profiling import print_profile
from repel.engine.trainer_limits import check_batches
from repel.module import Contrastive
from repel.monitoring.validation_knn import _validated

SHORT = ["callbacks.monitor=null", "callbacks.health=null"]


SLOWER = ((1, []), (3, []), (2, ["compile=true"]), (2, ["optimizer.fused=true"]))


@pytest.mark.parametrize(("begin", "more"), [
    (2, []), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOWER),
])  # fmt: skip
def test_validation_within_an_epoch_resumes(tmp_path, monkeypatch, begin, more):
    """After every step a run may be killed: the one before which validation is due, and the one after it."""
    folder, killed = tmp_path / "run", tmp_path / "killed"
    usual = checkpoint_callbacks.save_last

    def save_last(trainer):
        usual(trainer)
        if trainer.global_step == begin and not killed.exists():
            for logger in trainer.loggers:
                logger.save()
            shutil.copytree(folder, killed)

    monkeypatch.setattr(checkpoint_callbacks, "save_last", save_last)
    often = [
        "trainer.val_check_interval=2",
        "callbacks.last.every_n_train_steps=1",
        "trainer.max_epochs=1",
        *SHORT,
        *more,
    ]
    train(folder, *often)
    seen = checkpoint_io.load(killed / "checkpoints/last.ckpt")["callbacks"]["BestCheckpoint"]["best"]
    assert (seen is not None) == (begin >= 2)  # what comes before the checkpoint is in it
    train(killed, resume=True)
    measured = [
        [(row["step"], row["val/loss"], row["val/knn_top1"]) for row in history(run) if row["val/loss"]]
        for run in (folder, killed)
    ]
    assert measured[0] == measured[1]
    assert [step for step, *_ in measured[0]] == ["1", "3"]
    for name in ("last", "best"):
        whole, resumed = (checkpoint_io.load(run / f"checkpoints/{name}.ckpt") for run in (folder, killed))
        assert whole["global_step"] == resumed["global_step"]
        assert same(whole["state_dict"], resumed["state_dict"])
        assert whole["callbacks"]["BestCheckpoint"] == resumed["callbacks"]["BestCheckpoint"]


@pytest.mark.slow
def test_a_stopped_run_keeps_the_validation_after_its_last_step(tmp_path, monkeypatch):
    usual = Contrastive.training_step

    def training_step(self, batch, batch_idx):
        if batch_idx == 1:
            signal.raise_signal(signal.SIGTERM)
        return usual(self, batch, batch_idx)

    monkeypatch.setattr(Contrastive, "training_step", training_step)
    with pytest.raises(Stopped):
        train(tmp_path, "trainer.val_check_interval=2", *SHORT)
    kept = checkpoint_io.load(tmp_path / "checkpoints/last.ckpt")
    assert kept["global_step"] == 2
    assert kept["callbacks"]["BestCheckpoint"]["best"] is not None


def test_overfitting_takes_the_same_samples_in_every_epoch(tmp_path, monkeypatch, capsys):
    seen, usual = [], Contrastive.training_step

    def training_step(self, batch, batch_idx):
        seen.append((batch.ids.clone(), batch.views.clone()))
        return usual(self, batch, batch_idx)

    monkeypatch.setattr(Contrastive, "training_step", training_step)
    train(tmp_path, "trainer.overfit_batches=2", *SHORT)
    assert len(seen) == 4  # of two epochs
    for (ids, views), (again, others) in zip(seen[:2], seen[2:], strict=True):
        assert torch.equal(ids, again)
        assert not torch.equal(views, others)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not (tmp_path / "checkpoints/best.ckpt").exists()
    assert "trains on the same 32 samples" in capsys.readouterr().out


def test_limits_that_only_the_data_can_judge():
    def data(batches, validation):
        return SimpleNamespace(batches_per_epoch=lambda: batches, val_dataloader=lambda: range(validation))

    for options, batches, words in (
        ({"overfit_batches": 0.001}, 0, "trainer.overfit_batches leaves no batch"),
        ({}, 0, "trainer.limit_train_batches leaves no batch"),
        ({"limit_val_batches": 0.1}, 4, "trainer.limit_val_batches=0.1 leaves none of 5"),
        ({"val_check_interval": 5}, 4, "check_val_every_n_epoch=null"),
    ):
        with pytest.raises(ValueError, match=words):
            check_batches(options, data(batches, 5))
    for options in ({"val_check_interval": 5, "check_val_every_n_epoch": None}, {"val_check_interval": 4},
                    {"limit_val_batches": 0}, {"limit_val_batches": 1.0}):  # fmt: skip
        check_batches(options, data(4, 5))


def test_knn_measures_the_validation_samples_whose_loss_was_measured():
    pieces = torch.tensor([4, 1, 3, 0, 2, 5]).tensor_split(3)
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(splits=SimpleNamespace(val=10 * torch.arange(6))),
        val_dataloaders=SimpleNamespace(sampler=SimpleNamespace(pieces=pieces)),
    )
    for batches, expected in ((2, [0, 10, 30, 40]), (3, [0, 10, 20, 30, 40, 50])):
        trainer.num_val_batches = [batches]
        assert _validated(trainer).tolist() == expected


def test_the_sanity_check_chooses_no_checkpoint():
    callback = BestCheckpoint()
    callback.on_validation_end(SimpleNamespace(sanity_checking=True), None)
    assert callback.best is None


def test_a_profile_is_printed_and_kept(tmp_path, capsys):
    print_profile(PassThroughProfiler(), tmp_path)
    assert capsys.readouterr().out == ""
    trainer = build_trainer(config("trainer.profiler=simple"), tmp_path)
    assert isinstance(trainer.profiler, SimpleProfiler)
    with trainer.profiler.profile("a_step"):
        pass
    trainer.profiler.describe()
    print_profile(trainer.profiler, tmp_path)
    printed = capsys.readouterr().out
    assert "a_step" in printed
    assert "all of it: profile.txt" in printed
