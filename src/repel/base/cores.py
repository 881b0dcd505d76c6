"""How many CPU cores a process may use: often fewer than the machine has."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SHARE", "cores_per_rank", "limit_threads", "one_thread", "usable_cores"]

SHARE = "REPEL_CORES"  # in the environment: the cores of one of a sweep's jobs that run side by side
_ROOT = Path("/")


def usable_cores() -> int:
    """Cores that this process may use, at least 1: the least of

    - the cores it is bound to (taskset, cpusets, a scheduler); of the machine, where the system does not say;
    - the quota of its control group or one above it, versions 1 and 2 (containers), rounded up;
    - SLURM_CPUS_PER_TASK: srun's for one task, a batch script's for all of its tasks on the machine;
    - the share of a sweep's job that runs beside others.

    As joblib's loky counts, which looks at the topmost group alone and not at SLURM.
    """
    bound = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([bound, *_quotas(_ROOT), *_slurm(), *_share()]))


def cores_per_rank() -> int:
    """This rank's share of usable_cores() on its machine, at least 1. A process that is no rank has them all."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def limit_threads() -> None:
    """Let torch use no more threads than cores: it knows what it is bound to, and no quota. OMP_NUM_THREADS decides."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores_per_rank():
        torch.set_num_threads(cores_per_rank())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Operations of torch on one thread, for many that are short.

    Several threads wait for one another, busily, after each: on cores that others use too this took 30 times as long.
    """
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _share() -> list[int]:
    return [int(os.environ[SHARE])] if SHARE in os.environ else []


def _slurm() -> list[int]:
    environment = os.environ
    if not environment.get("SLURM_CPUS_PER_TASK", "").isdigit():
        return []
    tasks = 1
    if "SLURM_STEP_NUM_TASKS" not in environment:  # not started by srun
        tasks = math.ceil(int(environment.get("SLURM_NTASKS", 1)) / int(environment.get("SLURM_NNODES", 1)))
    return [int(environment["SLURM_CPUS_PER_TASK"]) * tasks]


def _quotas(root: Path) -> list[int]:
    """Of every control group that this process is in, in cores; none where there is no limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for line in lines:  # number:controllers:path; version 2 names no controllers
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in [controllers, "cpu"] if controllers else ["", "unified"]:
            top = root / "sys/fs/cgroup" / mount
            group = top / path.lstrip("/")  # in a container the path may be the host's: then only the top is there
            for folder in [group, *group.parents][: len(group.parts) - len(top.parts) + 1]:
                found += _quota(folder)
    return found


def _quota(group: Path) -> list[int]:
    """Of one control group, version 2 or 1; none where it says `max` or -1, or has no such file."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        return [math.ceil(int(quota) / int(period))] if quota != "max" and int(quota) > 0 else []
    except (OSError, ValueError):
        return []
