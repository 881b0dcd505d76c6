"""The cores a process may use: what it is bound to, quotas of control groups, SLURM; as they stand in files."""

import os

import pytest
import torch

from repel.base import cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """64 cores and no SLURM; a function that writes the files of control groups below a root of its own."""
    for name in [name for name in os.environ if name.startswith("SLURM_")] + ["LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 128)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(cores, "_ROOT", tmp_path)

    def write(groups: str, **files: str) -> None:
        files = {"proc/self/cgroup": groups, **files}
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text + "\n", encoding="utf-8")

    return write


STEP = {"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "1"}  # of srun
TOP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {}, 64),
        ("0::/", {f"{TOP}/cpu.max": "max 100000"}, 64),
        ("0::/", {f"{TOP}/cpu.max": "200000 100000"}, 2),
        ("0::/", {f"{TOP}/cpu.max": "150000 100000"}, 2),
        ("0::/a/b", {f"{TOP}/a/b/cpu.max": "max 100000", f"{TOP}/a/cpu.max": "300000 100000"}, 3),  # of the one above
        ("0::/host/path", {f"{TOP}/cpu.max": "400000 100000"}, 4),  # a container sees its own group at the top
        ("4:memory:/x\n3:cpu,cpuacct:/x", {f"{TOP}/cpu,cpuacct/x/cpu.cfs_quota_us": "500000",
                                          f"{TOP}/cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 5),
        ("3:cpu,cpuacct:/host", {f"{TOP}/cpu/cpu.cfs_quota_us": "50000", f"{TOP}/cpu/cpu.cfs_period_us": "100000"}, 1),
        ("3:cpu:/", {f"{TOP}/cpu/cpu.cfs_quota_us": "-1", f"{TOP}/cpu/cpu.cfs_period_us": "100000"}, 64),
        ("2:cpuset:/x", {f"{TOP}/cpuset/x/cpu.cfs_quota_us": "1", f"{TOP}/cpuset/x/cpu.cfs_period_us": "1"}, 64),
    ],
)  # fmt: skip
def test_quotas_of_control_groups(machine, groups, files, expected):
    machine(groups, **files)
    assert cores.usable_cores() == expected


def test_cores_that_the_process_is_bound_to(machine, monkeypatch):
    assert cores.usable_cores() == 64  # without the files of control groups
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5})
    assert cores.usable_cores() == 2
    monkeypatch.setattr("sys.platform", "darwin")
    assert cores.usable_cores() == 128


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"SLURM_CPUS_PER_TASK": "4"}, 4), ({"SLURM_CPUS_PER_TASK": ""}, 64),
     ({"SLURM_CPUS_PER_TASK": "4", "SLURM_TASKS_PER_NODE": "3(x2)"}, 12),  # a batch script's own ranks
     ({"SLURM_CPUS_PER_TASK": "4", "SLURM_TASKS_PER_NODE": "3(x2)", **STEP}, 4),
     ({"SLURM_CPUS_ON_NODE": "8"}, 8),
     ({"SLURM_CPUS_ON_NODE": "8", **STEP}, 4),  # as srun -n without -c: nothing binds its two tasks here
     ({"SLURM_CPUS_ON_NODE": "8", **STEP, "SLURM_NODEID": "2"}, 8),
     ({"SLURM_CPUS_ON_NODE": "1", **STEP}, 1)],
)  # fmt: skip
def test_slurm(machine, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cores.usable_cores() == expected


def test_ranks_share_the_cores_and_torch_keeps_to_them(machine, monkeypatch):
    machine("0::/", **{f"{TOP}/cpu.max": "800000 100000"})
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    cores.limit_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cores.cores_per_rank() == 2
    cores.limit_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cores.cores_per_rank() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "64")  # the user's word
    cores.limit_threads()
    assert threads == [8, 2]


def test_nothing_else_counts_cores():
    """Neither the package nor its scripts ask the system themselves."""
    from pathlib import Path

    root = Path(__file__).parents[2]
    files = [*(root / "src").rglob("*.py"), *(root / "scripts").rglob("*.py")]
    asking = {file.name for file in files if any(w in file.read_text(encoding="utf-8")
                                                 for w in ("cpu_count", "sched_getaffinity"))}  # fmt: skip
    assert asking == {"cores.py"}
