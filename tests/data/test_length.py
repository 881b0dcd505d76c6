"""Learning rate and annealing end where training ends, whichever limit that is; an extended run has no jump."""

from types import SimpleNamespace

import pytest
import yaml
from conftest import config
from lightning.pytorch import Callback
from runs_here import fitted, history, status, train

from repel.data.length import TrainingLength
from repel.engine.build import build_module
from repel.engine.notes import end_notes, length_notes

RATE, ANNEALED = "lr-AdamW/pg1", "anneal/loss.temperature"
SHORT = ["trainer.limit_train_batches=4", "schedule.warmup_epochs=0", "anneal.values={loss.temperature:[0.5,0.1]}",
         "callbacks.knn=null", "callbacks.monitor=null", "callbacks.health=null"]  # fmt: skip


class Watch(Callback):
    """The rate and the temperature of every step; a clock that moves by a second a step."""

    def __init__(self):
        self.clock, self.rates, self.temperatures = 0.0, [], []

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.temperatures.append(pl_module.loss.temperature)
        self.clock += 1.0


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        (["trainer.max_epochs=-1", "trainer.max_steps=6"], 6),
        (["trainer.max_epochs=25", "trainer.max_steps=3", "trainer.accumulate_grad_batches=2"], 3),
        (["trainer.max_epochs=-1", "trainer.max_time=00:00:00:10"], 10),
    ],
)
def test_the_rate_comes_down_with_the_last_step(tmp_path, monkeypatch, limits, steps):
    watch = Watch()
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=lambda: watch.clock))
    fitted(tmp_path, *SHORT, *limits, callback=watch)
    per_step = len(watch.rates) // steps
    rates = watch.rates[::per_step]
    assert len(rates) == steps
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9 * 3e-3
    assert rates[-1] < 0.09 * 3e-3
    assert watch.temperatures[0] == 0.5
    assert watch.temperatures[-1] == pytest.approx(0.1, abs=0.45 / steps)


def test_the_length_under_a_limit_of_time():
    length = TrainingLength(epochs=25.0, seconds=100.0)
    assert [length.at(epoch, elapsed) for epoch, elapsed in ((0.0, 0.0), (0.0, 3.0), (1.0, 0.0))] == [25.0] * 3
    assert length.at(1.0, elapsed=1.0) == 25.0  # epochs run out before
    assert length.at(2.0, elapsed=50.0) == 4.0
    assert length.at(4.0, elapsed=100.0) == 4.0
    assert [str(TrainingLength(*ends)) for ends in ((3.0,), (float("inf"), 60.0), (3.0, 60.0))] == [
        "3 epochs", "60 seconds", "3 epochs or 60 seconds",
    ]  # fmt: skip


@pytest.mark.slow
def test_an_extended_run_has_no_jump_and_says_so(tmp_path, capsys):
    folder = tmp_path / "run"
    train(folder, *SHORT, "trainer.max_epochs=2", "schedule.final=0.1", "schedule.on_extend=hold")
    cfg = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert "note" not in capsys.readouterr().out
    cfg["trainer"]["max_epochs"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(cfg), encoding="utf-8")
    train(folder, resume=True)
    rates = [float(row[RATE]) for row in history(folder) if row[RATE]]
    assert len(rates) == 12
    assert rates[7] == pytest.approx(0.1 * 3e-3, rel=0.2)
    assert rates[8:] == pytest.approx([0.1 * 3e-3] * 4)
    assert [float(row[ANNEALED]) for row in history(folder) if row[ANNEALED]][8:] == pytest.approx([0.1] * 4)
    assert "training was to last 2 epochs when it began, and 3 epochs now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "now", "words"),
    [
        ([], TrainingLength(5.0), []),
        (["schedule.warmup_epochs=5"], TrainingLength(5.0), ["warmup_epochs=5 takes all of training, 5 epochs"]),
        (["schedule=constant", "schedule.warmup_epochs=6"], TrainingLength(5.0), ["warmup_epochs=6 takes all"]),
        (
            ["schedule.max_epochs=9"],
            TrainingLength(5.0),
            ["training ends at epoch 5", "not come down"],
        ),
        (["schedule.max_epochs=3"], TrainingLength(5.0), ["max_epochs=3 and training ends", "stays at"]),
        (["schedule.max_epochs=3"], TrainingLength(float("inf"), 60.0), ["by the clock"]),
    ],
)
def test_what_does_not_end_with_training_is_told(overrides, now, words):
    found = list(length_notes(build_module(config(*overrides)), now))
    assert len(found) == bool(words)
    assert all(word in found[0] for word in words)


def test_after_a_limit_of_time_a_warm_up_that_did_not_end_is_told():
    assert "takes all of training, 0.4 epochs" in next(end_notes(build_module(config()), 0.4))


@pytest.mark.parametrize(
    ("typed", "words"),
    [(["trainer.max_epochs=-1"], "without an end: set trainer.max_steps or trainer.max_time"),
     (["trainer.max_epochs=0"], "trainer.max_epochs must be -1, or"),
     (["trainer.max_time=1:00"], "trainer.max_time must be null, or DD:HH:MM:SS"),
     (["schedule.max_epochs=0"], "schedule.max_epochs must be a number > 0")],
)  # fmt: skip
def test_limits_are_checked(tmp_path, typed, words):
    code, line = status(tmp_path / "run", *typed)
    assert code == 2
    assert words in line
