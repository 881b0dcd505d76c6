"""Kills, signals and faults: what a run does then, and that it ends in the same bits all the same."""

import json
import os
import re
import signal

import faults
import pytest
import ranks
from conftest import TINY, command, config, left_over
from stateful_runs import EVERY, FOLDER, STATEFUL, STEPS, assert_same_run, last

from repel.base.signals import Stopped

# --------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.slow
@pytest.mark.parametrize(("world", "step"), [(1, 2), (1, 3), *((2, step) for step in range(1, STEPS))])
def test_killed_after_any_step_and_resumed_is_the_same_run(tmp_path, whole, world, step):
    """The last rank is killed; its neighbors lose the connection, and end."""
    cfg, folder = config(*STATEFUL, EVERY, f"trainer.devices={world}"), tmp_path / "run"
    statuses = ranks.run(cfg, folder, f"kill:{world - 1}:{step}")
    assert statuses[-1] == -signal.SIGKILL
    assert 0 not in statuses
    assert last(folder)["global_step"] == step - (step % 2 == 0)  # an epoch's last step is saved after validation
    assert ranks.run(cfg, folder, resume=True) == [0] * world
    assert_same_run(folder, whole(world), lost=1)


@pytest.mark.slow
def test_killed_with_workers_and_resumed_is_the_run_without_workers(tmp_path, whole, image_folder):
    data = [*FOLDER, f"data.root={image_folder}"]
    folder = tmp_path / "run"
    cfg = config(*STATEFUL, EVERY, *data, "data.workers=2")
    assert ranks.run(cfg, folder, "kill:0:3") == [-signal.SIGKILL]
    assert ranks.run(cfg, folder, resume=True) == [0]
    assert_same_run(folder, whole(1, *data, "data.workers=0"), lost=1)


def test_killed_while_a_checkpoint_is_written(tmp_path, whole):
    """Half a file is on the disk: under another name, and the next one takes its place."""
    folder = tmp_path / "run"
    cfg = config(*STATEFUL, EVERY)
    assert ranks.run(cfg, folder, "tear:0:5") == [-signal.SIGKILL]
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert {".last.ckpt.tmp", "last.ckpt"} <= left
    assert 0 < last(folder)["global_step"] < STEPS
    assert ranks.run(cfg, folder, resume=True) == [0]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert_same_run(folder, whole(1))


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("world", "fault"),
    [
        (1, "INT:0:3"),
        (2, "USR1:1:3"),
        *(pytest.param(*case, marks=pytest.mark.slow)
          for case in [(1, "TERM:0:2"), (2, "TERM:0:2"), (2, "INT:1:4")]),
    ],
)  # fmt: skip
def test_a_signal_to_any_rank_stops_all_after_the_same_step(tmp_path, whole, world, fault):
    """In the middle of an epoch (even steps) as of that step; in its last step, after validation."""
    cfg, folder, step = config(*STATEFUL, f"trainer.devices={world}"), tmp_path / "run", int(fault.split(":")[2])
    assert ranks.run(cfg, folder, fault) == [130 if "INT" in fault else 143] * world
    assert last(folder)["global_step"] == step + 1
    assert ranks.run(cfg, folder, resume=True) == [0] * world
    assert_same_run(folder, whole(world))


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fault"), [(1, "TERM:group:5"), (2, "TERM:group:5"), (2, "USR1:parent:6"),
                                                (2, "INT:group:5")])  # fmt: skip
def test_a_signal_to_the_command_stops_it_and_says_how_to_go_on(tmp_path, devices, fault):
    """To its process alone or to its whole group; two data workers get it too."""
    result = command("train.py", *TINY, f"trainer.devices={devices}", "trainer.max_epochs=9", cwd=tmp_path,
                     **faults.injected(fault))  # fmt: skip
    number = {"TERM": 15, "USR1": 10, "INT": 2}[fault.split(":")[0]]
    assert result.returncode == Stopped(number).status, result.stderr
    word = re.escape(str(Stopped(number)))
    assert re.fullmatch(rf"{word}; resume with: python train\.py resume=runs/train/\S+_debug\n", result.stderr)
    assert last(next(tmp_path.glob("runs/train/*")))["global_step"] in range(int(fault.split(":")[2]) + 1, 30)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("fault", [pytest.param("TERM:group:2", marks=pytest.mark.slow), "INT:group:2"])
def test_a_signal_that_reaches_the_data_workers_too(tmp_path, whole, image_folder, fault):
    data = [*FOLDER, f"data.root={image_folder}"]
    cfg, folder = config(*STATEFUL, *data, "data.workers=2"), tmp_path / "run"
    assert ranks.run(cfg, folder, fault) == [130 if "INT" in fault else 143]
    assert last(folder)["global_step"] == 3
    assert ranks.run(cfg, folder, resume=True) == [0]
    assert_same_run(folder, whole(1, *data, "data.workers=0"))


def test_what_was_told_to_be_ignored_stays_ignored(monkeypatch):
    """nohup, and SIGINT of a script's background jobs."""
    from repel.base.signals import DeferredSignals, active_signals, raise_on_signal

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert active_signals() == [signal.SIGTERM, signal.SIGUSR1]
        raise_on_signal()
        with DeferredSignals() as deferred:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert deferred.number == signal.SIGTERM
            deferred.number = 0
        with pytest.raises(Stopped, match="TERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_that_nobody_answered_is_not_lost():
    from repel.base.signals import DeferredSignals

    with pytest.raises(Stopped), DeferredSignals():
        os.kill(os.getpid(), signal.SIGUSR1)


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.slow
def test_one_failing_rank_ends_the_run_and_is_named(tmp_path):
    result = command("train.py", *TINY, "trainer.devices=2", cwd=tmp_path, **faults.injected("raise:1:2"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "error: rank 1: RuntimeError: boom on rank 1"
    assert len(result.stderr.splitlines()) == 2
    record = next(tmp_path.glob("runs/train/*/error.txt")).read_text()
    assert "in shared_step" in record
    assert 'raise RuntimeError(f"boom' in record
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loss_that_is_no_number_stops_all_ranks_before_the_optimizer(tmp_path, whole, world):
    folder = tmp_path / "run"
    cfg = config(*STATEFUL, EVERY, f"trainer.devices={world}")
    assert ranks.run(cfg, folder, f"nan:{world - 1}:3") == [3] * world
    record = (folder / "error_rank0.json").read_text(encoding="utf-8")
    assert ("on rank 1" in record) == (world == 2)
    assert "the loss is nan" in record
    assert "at step 3" in record
    assert ranks.run(cfg, folder, resume=True) == [0] * world  # nothing of it is left
    assert_same_run(folder, whole(world))


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_keeps_the_checkpoint_of_before(tmp_path, whole, world):
    folder = tmp_path / "run"
    cfg = config(*STATEFUL, EVERY, f"trainer.devices={world}")
    assert ranks.run(cfg, folder, "disk:0:5")[0] == 1
    line = json.loads((folder / "error_rank0.json").read_text(encoding="utf-8"))["message"]
    assert re.match(r"OSError: cannot write .*\.ckpt: .*No space left.*; the earlier \S+\.ckpt is intact$", line), line
    assert 0 < last(folder)["global_step"] < STEPS
    assert ranks.run(cfg, folder, resume=True) == [0] * world
    assert_same_run(folder, whole(world))
