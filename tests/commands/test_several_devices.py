"""Commands that start ranks: a sweep of them, and what becomes of ranks whose parent is killed."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ranks
from conftest import ROOT, TINY, command, config, left_over, same

from repel.engine import checkpoint_io
from repel.engine.launch import _launch_config


@pytest.mark.slow
def test_a_sweep_on_several_devices(tmp_path):
    """Every job runs once, in one folder of its own, as it would alone; a failing job does not stop the rest."""
    rates = ["1e-3", "1e30", "2e-3"]
    options = [*TINY, "trainer.devices=2", "evaluators=[]", "evaluation.map=null"]
    (tmp_path / "temporary").mkdir()
    result = command("train.py", "-m", *options, "optimizer.lr=" + ",".join(rates), "hydra.sweep.dir=sweep",
                     cwd=tmp_path, OMP_NUM_THREADS="1", TMPDIR=str(tmp_path / "temporary"))  # fmt: skip
    assert [*(tmp_path / "temporary").glob("*elastic*"), *(tmp_path / "temporary").glob("repel_*")] == []
    assert result.returncode == 3, result.stderr
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir()) == ["0", "1", "2", "multirun.yaml"]
    assert not (tmp_path / "runs").exists()
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert "is no longer finite after step" in lines[0] or "the loss is" in lines[0]
    assert lines[1:] == ["hint: the traceback is in sweep/1/error.txt"]
    assert not (tmp_path / "sweep/1/metrics.json").exists()
    assert "Diverged" in (tmp_path / "sweep/1/error.txt").read_text()
    for job in (0, 2):
        folder = tmp_path / f"sweep/{job}"
        assert json.loads((folder / "metrics.json").read_text())["train/steps"] == 8
        assert len(list(folder.glob("events*"))) == 1  # the first rank's; nothing was measured
    alone = tmp_path / "alone"  # as the job after the one that failed
    assert ranks.run(config(*options, f"optimizer.lr={rates[2]}"), alone) == [0, 0]
    one, two = (checkpoint_io.load(f / "checkpoints/last.ckpt") for f in (folder, alone))
    assert same(one["state_dict"], two["state_dict"])
    assert left_over(tmp_path) == []


def test_the_launcher_leaves_nothing_in_the_temporary_directory(tmp_path, monkeypatch):
    """torch makes a folder for logs there, and leaves it, where it is told of no other place."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = tmp_path / "repel_x"
    logs = _launch_config("run", 2, str(place)).logs_specs
    logs.reify({0: {}, 1: {}})
    assert [path.name for path in tmp_path.iterdir()] == ["repel_x"]


def listening(processes: list[int]) -> set[str]:
    """The addresses at which these processes wait for connections."""
    table = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in table.splitlines() if any(f"pid={process}," in line for process in processes)]
    return {line.split()[3].rsplit(":", 1)[0].strip("[]") for line in ours}


@pytest.mark.slow
def test_ranks_die_with_their_parent(tmp_path):
    """kill -9 of the command, in the middle of training: no rank goes on without it. None can be reached from afar."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.devices=2", "trainer.max_epochs=100000"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    alive = []
    alarm = threading.Timer(120, process.kill)  # if the ranks never train, the output ends and the test fails
    alarm.start()
    try:
        assert any(line.startswith("epoch 1/") for line in process.stdout)  # both ranks train now
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        alive = [os.pidfd_open(int(pid)) for pid in children.split()]
        assert len(alive) == 2
        for pid in children.split():  # where a host's name is that of the loopback, what listens does not show it
            assert b"GLOO_SOCKET_IFNAME=lo" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert listening([process.pid, *map(int, children.split())]) <= {"127.0.0.1", "::1"}
        process.kill()
        for rank in alive:
            assert select.select([rank], [], [], 20)[0], "a rank outlived its parent"
    finally:
        alarm.cancel()
        process.kill()
        for rank in alive:
            if not select.select([rank], [], [], 0)[0]:
                signal.pidfd_send_signal(rank, signal.SIGKILL)
