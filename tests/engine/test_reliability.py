"""Kills, signals and faults: what a run does then, and that it ends in the same bits all the same."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import faults
import pytest
import ranks
import torch
import yaml
from conftest import ROOT, TINY, command, config, left_over, make_folder, same
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from repel.base.signals import Stopped
from repel.engine import agreement, checkpoint_io, runs
from repel.engine.fit import fit
from repel.monitoring.loggers import CSVHistory

# three epochs of two optimiser steps, each of two batches, with everything that has a state
STATEFUL = [
    "experiment=debug", "head.out_features=8", "data.batch_size=16", "callbacks.pairs=null", "evaluators=[]",
    "trainer.max_epochs=3", "trainer.accumulate_grad_batches=2", "schedule.warmup_epochs=2", "target=ema",
    "queue.size=40", "callbacks.monitor=null", "callbacks.knn=null",
    "encoder=timm", "encoder.name=vit_tiny_patch16_224",
    "+encoder.options={img_size:28,patch_size:14,embed_dim:8,depth:1,num_heads:2,pos_drop_rate:0.3,proj_drop_rate:0.3}",
]  # fmt: skip
STEPS = 6
EVERY = "callbacks.last.every_n_train_steps=1"


def last(folder: Path) -> dict:
    return checkpoint_io.load(folder / "checkpoints/last.ckpt")


def losses(folder: Path) -> dict[int, str]:
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


def assert_same_run(folder: Path, other: Path, lost: int = 0) -> None:
    """Weights, optimiser, schedule, queue, target and the history of the loss, bit for bit.

    lost: rows of the history that may be missing: Lightning writes a step's after the step's checkpoint.
    """
    one, two = last(folder), last(other)
    assert one["global_step"] == two["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(one[part], two[part]), part
    here, there = losses(folder), losses(other)
    assert here.items() <= there.items()
    assert len(there) - len(here) <= lost


@pytest.fixture(scope="module")
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


# --------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("step", range(1, STEPS))
def test_killed_after_any_step_and_resumed_is_the_same_run(tmp_path, whole, world, step):
    """The last rank is killed; its neighbours lose the connection, and end."""
    cfg, folder = config(*STATEFUL, EVERY, f"trainer.devices={world}"), tmp_path / "run"
    statuses = ranks.run(cfg, folder, f"kill:{world - 1}:{step}")
    assert statuses[-1] == -signal.SIGKILL
    assert 0 not in statuses
    assert last(folder)["global_step"] == step - (step % 2 == 0)  # an epoch's last step is saved after validation
    assert ranks.run(cfg, folder, resume=True) == [0] * world
    assert_same_run(folder, whole(world), lost=1)


@pytest.mark.slow
def test_killed_with_workers_and_resumed_is_the_run_without_workers(tmp_path, whole, image_folder):
    data = ["data=image_folder", f"data.root={image_folder}", "data.image_size=28", "data.batch_size=8"]
    folder = tmp_path / "run"
    cfg = config(*STATEFUL, EVERY, *data, "data.workers=2")
    assert ranks.run(cfg, folder, "kill:0:3") == [-signal.SIGKILL]
    assert ranks.run(cfg, folder, resume=True) == [0]
    assert_same_run(folder, whole(1, *data, "data.workers=0"), lost=1)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"), ["red", "green"], 30)


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
        (1, "TERM:0:2"),
        (1, "INT:0:3"),
        (2, "TERM:0:2"),
        (2, "USR1:1:3"),
        (2, "INT:1:4"),
        pytest.param(4, "TERM:3:2", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_any_rank_stops_all_after_the_same_step(tmp_path, whole, world, fault):
    """In the middle of an epoch (even steps) as of that step; in its last step, after validation."""
    cfg, folder, step = config(*STATEFUL, f"trainer.devices={world}"), tmp_path / "run", int(fault.split(":")[2])
    assert ranks.run(cfg, folder, fault) == [130 if "INT" in fault else 143] * world
    assert last(folder)["global_step"] == step + 1
    assert ranks.run(cfg, folder, resume=True) == [0] * world
    if world <= 2:
        assert_same_run(folder, whole(world))
    else:  # after its first step DDP groups gradients anew, and adds up those of more than two ranks in another order
        assert last(folder)["global_step"] == STEPS
        (one, two) = losses(folder), losses(whole(world))
        assert {step: float(loss) for step, loss in one.items()} == pytest.approx({s: float(x) for s, x in two.items()})


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


@pytest.mark.parametrize("fault", ["TERM:group:2", "INT:group:2"])
def test_a_signal_that_reaches_the_data_workers_too(tmp_path, whole, image_folder, fault):
    data = ["data=image_folder", f"data.root={image_folder}", "data.image_size=28", "data.batch_size=8"]
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


@pytest.mark.slow
def test_a_requeued_job_finds_its_run(tmp_path):
    """SLURM asks it to stop, and starts the same command again: other times, the same job."""
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    first = command("train.py", *TINY, cwd=tmp_path, **job, **faults.injected("USR1:parent:4"))
    assert first.returncode == 143, first.stderr
    again = command("train.py", *TINY, cwd=tmp_path, **job, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    assert "from step 5" in again.stdout
    (folder,) = (path for path in tmp_path.glob("runs/train/*") if path.name != ".slurm")
    assert last(folder)["global_step"] == 8
    other = command("train.py", *TINY, "seed=2", "trainer.max_epochs=0", cwd=tmp_path, **job, SLURM_RESTART_COUNT="1")
    assert other.returncode == 2  # another command of the job is another run


@pytest.mark.slow
def test_a_requeued_job_finds_its_sweep(tmp_path):
    job, sweep = {"SLURM_JOB_ID": "7"}, ["-m", "seed=1,2", *TINY, "evaluators=[]", "evaluation.map=null"]
    first = command("train.py", *sweep, cwd=tmp_path, **job, **faults.injected("USR1:parent:4"))
    assert first.returncode == 143, first.stderr
    again = command("train.py", *sweep, cwd=tmp_path, **job, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    assert "from step 5" in again.stdout
    found = sorted(tmp_path.glob("sweeps/train/*/*/checkpoints"))
    assert [path.parent.name for path in found] == ["0", "1"]
    assert len({path.parents[1] for path in found}) == 1
    assert [last(path.parent)["global_step"] for path in found] == [8, 8]


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.slow
def test_one_failing_rank_ends_the_run_and_is_named(tmp_path):
    result = command("train.py", *TINY, "trainer.devices=2", cwd=tmp_path, **faults.injected("raise:1:2"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "error: rank 1: RuntimeError: boom on rank 1"
    assert len(result.stderr.splitlines()) == 2
    record = next(tmp_path.glob("runs/train/*/error.txt")).read_text()
    assert "in contrast" in record
    assert 'raise RuntimeError(f"boom' in record
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("world", [1, 2])
def test_a_loss_that_is_no_number_stops_all_ranks_before_the_optimiser(tmp_path, whole, world):
    folder = tmp_path / "run"
    cfg = config(*STATEFUL, EVERY, f"trainer.devices={world}")
    assert ranks.run(cfg, folder, f"nan:{world - 1}:3") == [3] * world
    record = (folder / "error_rank0.json").read_text(encoding="utf-8")
    assert ("on rank 1" in record) == (world == 2)
    assert "the loss is nan" in record
    assert "at step 3" in record
    assert ranks.run(cfg, folder, resume=True) == [0] * world  # nothing of it is left
    assert_same_run(folder, whole(world))


@pytest.mark.parametrize("world", [1, 2])
def test_a_full_disk_keeps_the_checkpoint_of_before(tmp_path, whole, world):
    folder = tmp_path / "run"
    cfg = config(*STATEFUL, EVERY, f"trainer.devices={world}")
    assert ranks.run(cfg, folder, "disk:0:5")[0] == 1
    line = json.loads((folder / "error_rank0.json").read_text(encoding="utf-8"))["message"]
    assert re.match(r"OSError: cannot write .*\.ckpt: .*No space left.*; the earlier \S+\.ckpt is intact$", line), line
    assert 0 < last(folder)["global_step"] < STEPS
    assert ranks.run(cfg, folder, resume=True) == [0] * world
    assert_same_run(folder, whole(world))


def test_ranks_that_read_other_data_are_named(monkeypatch):
    monkeypatch.setattr("repel.engine.agreement.gather", lambda mine: torch.tensor([[5, 2], [4, 2]]))
    with pytest.raises(RuntimeError, match="rank 1 has 4 training images and rank 0 has 5"):
        agreement.check_same({"training images": 5, "batches": 2}, torch.device("cpu"))


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def written(tmp_path):
    """A small run's checkpoints: the best, and a newer last."""
    made = {"config": {"seed": 1}, "state_dict": {"w": torch.arange(30.0)}, "epoch": 0, "global_step": 4}
    folder = tmp_path / "checkpoints"
    for name, epoch in (("best", 0), ("last", 1)):
        checkpoint_io.AtomicCheckpointIO().save_checkpoint({**made, "epoch": epoch}, folder / f"{name}.ckpt")
    return folder


def test_a_bit_that_turned_over_anywhere_is_found_or_harmless(written):
    path = written / "last.ckpt"
    whole, meant, found = path.read_bytes(), checkpoint_io.load(path), 0
    for at in range(0, len(whole), 3):
        faults.flip(path, at)
        try:
            loaded = checkpoint_io.load(path)
        except ValueError as error:
            found += "last.ckpt is damaged or not a checkpoint" in str(error) and "resume=" in str(error)
        else:
            assert same(loaded, meant), at
        path.write_bytes(whole)
    assert found > len(whole) / 3 * 0.2


@pytest.mark.parametrize("size", [0, 1, 100, -1, -100])
def test_a_truncated_checkpoint_is_named_with_the_newest_good_one(written, size):
    faults.cut(written / "last.ckpt", size)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged.*; best\.ckpt beside it is good, of epoch 1: use"):
        checkpoint_io.load(written / "last.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was here",))

    torch.save({"config": {}, "state_dict": {}, "payload": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt is damaged or not a checkpoint"):
        checkpoint_io.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "was here").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole(1), folder)
    cfg = runs.read_config(folder)
    cfg["head"]["out_features"] = 9
    cfg["queue"]["dim"] = 9
    (folder / "config.yaml").write_text(yaml.safe_dump(cfg))
    with pytest.raises(ValueError, match=r"last\.ckpt is of another network: head\.\S+ is .* there and .* here"):
        fit(OmegaConf.create(cfg), folder, resume=True)


def test_going_back_to_another_checkpoint(written):
    from repel.cli.resume import restore_checkpoint

    faults.cut(written / "last.ckpt", 100)
    restore_checkpoint(written / "best.ckpt", written / "last.ckpt")
    assert checkpoint_io.load(written / "last.ckpt")["epoch"] == 0
    (written.parent / "config.yaml").touch()
    assert runs.find(str(written / "best.ckpt")) == written.parent  # resume=RUN/checkpoints/best.ckpt


HISTORY = "epoch,step,train/loss,val/loss\n0,0,3.5,\n0,1,3.4,\n0,1,,3.3\n1,2,3.2,\n"


@pytest.mark.parametrize("torn", ["", "1,3,3.1", "1,", "1,3\n", "1\n", "\n", "1,x,3.1,\n"])
def test_a_history_that_a_kill_has_torn_can_be_gone_on_with(tmp_path, torn):
    """Whole rows before the step stay, new columns included later; what is left of a row goes."""
    (tmp_path / "metrics.csv").write_text(HISTORY + torn)
    logger = CSVHistory(str(tmp_path), purge_step=2)
    logger.log_metrics({"train/loss": 3.0}, step=2)
    logger.log_metrics({"speed/samples_per_second": 9.0}, step=2)
    logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["train/loss"], row["val/loss"]) for row in rows] == [
        ("0", "3.5", ""), ("1", "3.4", ""), ("1", "", "3.3"), ("2", "3.0", ""), ("2", "", "")
    ]  # fmt: skip


def test_the_first_rank_alone_touches_the_history(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    (tmp_path / "metrics.csv").write_text(HISTORY)
    logger = CSVHistory(str(tmp_path), purge_step=1)
    assert logger.experiment is not None  # Lightning's stand-in, which does nothing
    logger.log_metrics({"train/loss": 3.0}, step=2)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == HISTORY


# ----------------------------------------------------------------------------------------------------- 1, 2 and 4 ranks

SAME = ["experiment=debug", "data.batch_size=16", "trainer.limit_train_batches=10", "trainer.precision=64-true",
        "callbacks.knn=null", "callbacks.monitor=null", "callbacks.pairs=null", "evaluators=[]"]  # fmt: skip
NETWORKS = {
    "batch norm": ["encoder.width=4", "head.out_features=8"],
    "layer norm": ["encoder=timm", "encoder.name=vit_tiny_patch16_224", "head=linear", "target=ema", "queue.size=32",
                   "+encoder.options={img_size:28,patch_size:14,embed_dim:8,depth:1,num_heads:2}"],
    "multi-crop": ["encoder.width=4", "head.out_features=8", "views=multi_crop", "trainer.limit_train_batches=4"],
}  # fmt: skip


@pytest.mark.parametrize("network", [name if name == "batch norm" else pytest.param(name, marks=pytest.mark.slow)
                                     for name in NETWORKS])  # fmt: skip
def test_any_number_of_ranks_trains_the_same(tmp_path, network):
    """The whole pipeline: order, views, gather, batch norm, gradients, schedule. 20 steps in float64."""
    found = {}
    for world in (1, 2, 4):
        folder = tmp_path / str(world)
        assert ranks.run(config(*SAME, *NETWORKS[network], f"trainer.devices={world}"), folder) == [0] * world
        found[world] = last(folder)["state_dict"], losses(folder)
    for world in (2, 4):
        for name, one in found[1][0].items():
            torch.testing.assert_close(found[world][0][name], one, rtol=0, atol=1e-12, msg=f"{world}: {name}")
        assert found[world][1].keys() == found[1][1].keys()
        for step, loss in found[1][1].items():
            assert float(found[world][1][step]) == pytest.approx(float(loss), abs=1e-12), (world, step)


# --------------------------------------------------------------------------------------- ranks that others have started


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_ranks_of_torchrun_meet_in_one_run(tmp_path, nodes):
    """Of one machine, and of two as far as one can play both."""
    options = [*TINY, f"trainer.devices={2 // nodes}", f"trainer.num_nodes={nodes}", "evaluators=[]"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    start = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={2 // nodes}"]
    start += ["--rdzv-backend=c10d", f"--rdzv-endpoint={address}", "--local-addr=127.0.0.1"]
    begun = [
        subprocess.Popen([*start, str(ROOT / "train.py"), *options, "evaluation.map=null"], cwd=tmp_path,
                         env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        for _ in range(nodes)
    ]  # fmt: skip
    try:
        assert [node.wait(300) for node in begun] == [0] * nodes
    finally:
        for node in begun:
            node.kill()
    (folder,) = tmp_path.glob("runs/train/*")
    assert ranks.run(config(*TINY, "trainer.devices=2"), tmp_path / "ours") == [0, 0]
    assert same(last(folder)["state_dict"], last(tmp_path / "ours")["state_dict"])


@pytest.mark.slow
def test_tasks_of_srun_meet_in_one_run(tmp_path):
    """What srun sets, without it; and a config that the first task refuses ends the others too."""
    options = [*TINY, "trainer.devices=2", "evaluators=[]", "evaluation.map=null"]
    for port, more, status in (("51", [], 0), ("52", ["data.batch_size=7"], 2)):
        tasks = []
        for rank in range(2):
            task = {"SLURM_JOB_ID": port, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(rank),
                    "SLURM_LOCALID": str(rank), "SLURM_STEP_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}  # fmt: skip
            tasks.append(subprocess.Popen([sys.executable, str(ROOT / "train.py"), *options, *more], cwd=tmp_path,
                                          env={**os.environ, **task}, stdout=subprocess.DEVNULL))  # fmt: skip
        try:
            statuses = [task.wait(200) for task in tasks]
            assert statuses[0] == status
            assert bool(statuses[1]) == bool(status)
        finally:
            for task in tasks:
                task.kill()
    (folder,) = (path for path in tmp_path.glob("runs/train/*") if path.name != ".slurm")
    assert last(folder)["global_step"] == 8


def test_a_number_of_ranks_that_is_not_the_configs_is_refused(tmp_path, monkeypatch):
    from repel.engine.launch import launch

    for name, value in {"RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"trainer\.devices=1 on trainer\.num_nodes=1 are not the 4 ranks"):
        launch(config(), tmp_path, resume=False)
    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match=r"trainer\.num_nodes=2: start train\.py on each machine with torchrun"):
        launch(config("trainer.num_nodes=2"), tmp_path, resume=False)
