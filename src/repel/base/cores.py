"""How many CPU cores a process may use: often fewer than the machine has."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SHARE", "cores_per_rank", "cores_per_step", "limit_threads", "one_thread", "usable_cores"]

SHARE = "REPEL_CORES"  # in the environment: the cores of one of a sweep's jobs that run side by side
_ROOT = Path("/")


def usable_cores() -> int:
    """Cores that this process may use, at least 1: the least of

    - the cores it is bound to (taskset, cpusets, a scheduler); of the machine, where the system does not say;
    - the quota of its control group or one above it, versions 1 and 2 (containers), rounded up;
    - what SLURM gives: a task of srun's its own cores, a batch script those of all its tasks on the machine;
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


def cores_per_step() -> int:
    """Cores that one operation of torch may use, by OMP_NUM_THREADS or limit_threads()."""
    import torch

    return torch.get_num_threads()


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
    """Of a task of srun's: SLURM_CPUS_PER_TASK, or its share of the machine's. Of a batch script: all of its tasks'.

    SLURM binds a process to them only where the cluster's administrator has set that up.
    """
    step = "SLURM_STEP_NUM_TASKS" in os.environ  # started by srun
    tasks = _tasks_here("SLURM_STEP_TASKS_PER_NODE" if step else "SLURM_TASKS_PER_NODE")
    each, machine = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    if each.isdigit():
        return [int(each) * (1 if step else tasks)]
    return [int(machine) // tasks if step else int(machine)] if machine.isdigit() else []


def _tasks_here(name: str) -> int:
    """How many tasks this machine has, of a list such as 2(x3),1: one number a machine."""
    numbers: list[int] = []
    for part in os.environ.get(name, "1").split(","):
        number, _, times = part.rstrip(")").partition("(x")
        numbers += [int(number)] * int(times or 1)
    return numbers[min(int(os.environ.get("SLURM_NODEID", 0)), len(numbers) - 1)]


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
