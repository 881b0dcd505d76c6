"""A sweep's jobs side by side: shares of the machine, outputs, signals; and the launchers themselves."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, left_over
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from sweep_runs import BATCHES, small, steps

from repel.base import cores
from repel.base.signals import Stopped
from repel.cli import compare, shares, side_by_side
from repel.engine.outcomes import DIVERGED


@pytest.mark.parametrize(
    ("visible", "jobs", "expected"),
    [("0", 2, ["0", "0"]), ("0,1", 2, ["0", "1"]), ("0,1,2,3", 2, ["0,1", "2,3"]), ("0,1,2", 2, ["0", "1"]),
     ("4,7", 3, ["4", "7", "4"]), ("GPU-a,GPU-b", 1, ["GPU-a,GPU-b"])],
)  # fmt: skip
def test_gpus_of_jobs_side_by_side(visible, jobs, expected):
    assert [",".join(shares.own_gpus(visible.split(","), place, jobs)) for place in range(jobs)] == expected


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Enters job_beside_others() as another process of joblib's would, or of another launcher."""
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", cores.SHARE):
        monkeypatch.setenv(name, "1")  # to be put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(side_by_side, "_stopped", [])
    monkeypatch.setattr(shares, "_taken", [])

    def enter(launcher: str, threads=None, **options):
        config = {"mode": RunMode.MULTIRUN, "launcher": options,
                  "runtime": {"choices": {"hydra/launcher": launcher}, "output_dir": f"{tmp_path}/3"}}  # fmt: skip
        monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create(config))
        shares.take_share.cache_clear()
        return side_by_side.job_beside_others(threads)

    return enter


def test_each_process_has_its_share_of_gpus_and_cores(job, monkeypatch):
    pytest.importorskip("joblib")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6))
    monkeypatch.setattr(cores, "_quotas", lambda root: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    with shares.places():
        for gpus in ("2,3", "5,7"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
            monkeypatch.delenv(cores.SHARE, raising=False)
            monkeypatch.setenv("OMP_NUM_THREADS", "3")
            with job("joblib", n_jobs=2):
                assert os.environ["CUDA_VISIBLE_DEVICES"] == gpus
                assert cores.usable_cores() == 3
                assert "OMP_NUM_THREADS" not in os.environ, "several ranks divide the cores"
        place = Path(os.environ[shares.PLACES])
    assert not place.exists()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with job("ray", threads="2", ray={"remote": {"num_cpus": 5}}):
        assert cores.usable_cores() == 5
        assert os.environ["OMP_NUM_THREADS"] == "2", "it was typed"


def test_what_a_job_prints_goes_into_its_file(job, tmp_path, capfd, monkeypatch):
    for number, name in ((1, "stdout"), (2, "stderr")):  # pytest's own write elsewhere
        monkeypatch.setattr(sys, name, os.fdopen(number, "w", closefd=False))
    with job("submitit_local") as shared:
        print("of the job")
        subprocess.run(["echo", "of its ranks"], check=True)
        print("an error", file=sys.stderr)
        print("begins", file=shared)
    print("of the command", flush=True)
    assert (tmp_path / "output/3.txt").read_text().splitlines() == ["of the job", "of its ranks", "an error"]
    assert capfd.readouterr().out == "begins\nof the command\n"
    with job("basic") as shared:
        assert shared is None


def test_a_stopped_process_begins_no_other_job(job, tmp_path):
    with pytest.raises(Stopped), job("joblib", n_jobs=2):
        signal.raise_signal(signal.SIGTERM)
    folder = tmp_path / "3"  # Hydra makes it before the job's turn
    folder.mkdir()
    with pytest.raises(Stopped) as stop, job("joblib", n_jobs=2):
        pytest.fail("it began")
    assert stop.value.number == signal.SIGTERM
    assert not folder.exists()
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(Stopped), job("joblib", n_jobs=2):
        pytest.fail("it began")
    assert (folder / "checkpoints").exists()


def wait_for_signal(ready) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ready.set()
    signal.pause()


def test_a_signal_stops_the_jobs_and_waits_for_them(monkeypatch, capsys):
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    child = fork.Process(target=wait_for_signal, args=(ready,))
    child.start()
    ready.wait()
    assert child.pid in side_by_side._children()
    monkeypatch.setattr(side_by_side, "_children", lambda: [child.pid])
    left = [0, 1, 2]  # jobs that are running, whenever it looks
    usual = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop, side_by_side.stopping_jobs(left.pop, own=True):
        signal.raise_signal(signal.SIGTERM)
    child.join()
    assert child.exitcode == -signal.SIGTERM
    assert stop.value.status == 143
    assert left == [], "it looked until none was"
    assert capsys.readouterr().err == "stopping the jobs at their next step; a second ^C ends them at once\n"
    assert signal.getsignal(signal.SIGTERM) is usual


def test_a_second_signal_does_not_wait(monkeypatch):
    monkeypatch.setattr(side_by_side, "_children", list)
    monkeypatch.setattr(time, "sleep", lambda seconds: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped) as stop, side_by_side.stopping_jobs(lambda: 1, own=True):
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.number == signal.SIGTERM


LAUNCHERS = {
    "joblib": ("sweep=parallel", "sweep.jobs=2"),
    "submitit": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray alone takes half a minute to start
@pytest.mark.parametrize("name", LAUNCHERS)
def test_jobs_side_by_side_are_the_jobs_one_after_another(tmp_path, name):
    """The same bits; a failed job named; a sweep that is resumed with more jobs gives each its folder."""
    pytest.importorskip(f"hydra_plugins.hydra_{name}_launcher")
    options, sweep = [*small(tmp_path), "trainer.max_epochs=1"], tmp_path / "sweep"
    one = command("train.py", *options, "seed=1", "optimizer.lr=1e-3", "hydra.run.dir=one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    typed = ["train.py", "-m", *options, *LAUNCHERS[name]]
    values = ["seed=1", "optimizer.lr=1e30,1e-3"]
    first = command(*typed, *values, f"hydra.sweep.dir={sweep}", cwd=tmp_path, timeout=400, PYTHONHASHSEED="0")
    assert first.returncode == DIVERGED, first.stderr
    named = [line for line in first.stderr.splitlines() if line.startswith("failed")][-1]
    assert named.startswith("failed   sweep/0 (optimizer.lr=1e+30): the loss is")
    ours, alone = weights(sweep / "1"), weights(tmp_path / "one")
    assert all(torch.equal(ours[key], alone[key]) for key in alone)
    values[0] = "seed=4,5,1"
    values[1] = "optimizer.lr=1e-3"
    second = command(*typed, *values, f"sweep.resume={sweep}", cwd=tmp_path, timeout=400)  # joblib's jobs are forked
    assert second.returncode == 0, second.stderr
    assert [(run.folder.name, run.seed, run.state) for run in compare.read(sweep)] == [
        ("0", 1, "diverged"), ("1", 1, "finished"), ("2", 4, "finished"), ("3", 5, "finished"),
    ]  # fmt: skip
    assert "finished already" in (sweep / "output/1.txt").read_text()
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_stopped_sweep_side_by_side_goes_on(tmp_path):
    """^C while two jobs are trained: both save, nothing is left, and a resume trains what is left.

    What a job of several ranks does then is in test_reliability.py; a resume side by side is in the test above.
    """
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    options = [*small(tmp_path), "trainer.max_epochs=8", "seed=1,2,3"]
    sweep = tmp_path / "sweep"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *options, "sweep=parallel", f"hydra.sweep.dir={sweep}"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    alarm = threading.Timer(200, process.kill)
    alarm.start()
    try:
        while process.poll() is None and not all((sweep / name / "checkpoints/last.ckpt").exists() for name in "01"):
            threading.Event().wait(0.05)
        third = (sweep / "2/config.yaml").exists()  # where the first has ended already
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    finally:
        alarm.cancel()
        process.kill()
    assert process.returncode == 130, errors
    assert f"interrupted; the same command with sweep.resume={sweep} runs what is missing" in errors
    assert left_over(tmp_path) == []
    assert (sweep / "2/config.yaml").exists() == third
    result = command("train.py", "-m", *options, f"sweep.resume={sweep}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [run.state for run in compare.read(sweep)] == ["finished"] * 3
    assert [steps(sweep / name) for name in "012"] == [list(range(8 * BATCHES))] * 3
