"""Ranks that torchrun or srun has started: how they find each other, and the run that the first one makes.

Only the first rank reads the command line. The others wait until it announces the run folder, or that it failed.
"""

import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repel.engine import targets
from repel.engine.outcomes import CRASHED
from repel.engine.rank import run_rank

if TYPE_CHECKING:
    from torch.distributed import Store

__all__ = ["abort_waiting_ranks", "announce_run", "is_external_rank", "run_announced"]

RUN = "run"  # the store's key under which the first rank announces the run


def is_external_rank() -> bool:
    """Whether this process is one of several ranks that torchrun or srun has started."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "RANK" not in os.environ:
        _adopt_slurm()
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def announce_run(folder: Path, task: str) -> None:
    """Called by the first rank: the others, which wait in run_announced, do their part of the task in this folder."""
    _announce({"folder": str(folder.resolve()), "task": task, "allowed": targets.allowed()})


def abort_waiting_ranks(status: int) -> None:
    """Called by the first rank where it failed: ranks that still wait for a run end with the same status."""
    if not _store().check([RUN]):
        _announce({"failed": status})


def run_announced() -> int:
    """Called by every other rank: wait for the run, then do this rank's part of it. Returns the exit status."""
    try:
        run = json.loads(_store().get(RUN))
    except Exception:  # a lost connection: the first rank printed why it ended
        run = {"failed": CRASHED}
    if "failed" in run:
        return run["failed"]
    targets.allow(**run["allowed"])
    return run_rank(Path(run["folder"]), run["task"], print_error=True)


def _announce(run: dict[str, Any]) -> None:
    _store().set(RUN, json.dumps(run))


@functools.cache  # the first rank's store may be the server: it must live as long as the process
def _store() -> "Store":
    """A key-value store that all ranks reach."""
    from torch.distributed import PrefixStore, rendezvous

    store, _, _ = next(rendezvous("env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))
    return PrefixStore("repel", store)


def _adopt_slurm() -> None:
    """srun describes a task's place in other variables than torchrun: set those of torchrun."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    environment = os.environ
    environment["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(environment["SLURM_STEP_NODELIST"])
    environment["MASTER_PORT"] = str(15000 + int(environment["SLURM_JOB_ID"]) % 10000)  # another for each job
    environment["RANK"], environment["LOCAL_RANK"] = environment["SLURM_PROCID"], environment["SLURM_LOCALID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
