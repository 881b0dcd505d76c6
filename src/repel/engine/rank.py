"""One rank of a run: it does its part of a task, named as module:function, and records why it failed.

A rank gets the run folder, which holds the config, and never a command line: so a sweep's ranks cannot run the sweep
again, and no two ranks can run different configs.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from repel.base.signals import Stopped
from repel.base.terminal import outlive_readers
from repel.engine import runs, targets
from repel.engine.outcomes import CRASHED, explain
from repel.engine.redact import without_secrets

__all__ = ["FailureRecord", "failure_records", "run_rank"]


class FailureRecord(NamedTuple):
    """Why a rank failed, as it left it in the run folder: exit status, one line, traceback, time of the record."""

    rank: int
    status: int
    message: str
    traceback: str
    time: float


def failure_records(folder: Path, remove: bool = False) -> list[FailureRecord]:
    """The records of failed ranks in a run folder, the first to fail first."""
    records = []
    for path in sorted(folder.glob("error_rank*.json"), key=lambda path: path.stat().st_mtime_ns):
        with contextlib.suppress(ValueError):  # a full disk may have cut it short
            record = json.loads(path.read_text(encoding="utf-8"))
            records.append(FailureRecord(**record, time=path.stat().st_mtime))
        if remove:
            path.unlink()
    return records


def run_rank(folder: Path, task: str, store: str | None = None, print_error: bool = False) -> int:
    """Do this rank's part of a task. Returns the exit status; a failure is recorded in the folder for the parent.

    The process must then end by os._exit: destroying the process group would hang if other ranks are gone.

    Args:
        task: module:function of this package; called with the run folder.
        store: a file in which ranks on one machine meet; None: they met already, or there is only one.
        print_error: also print the failure, where no parent does.
    """
    status = 0
    try:
        function = _resolve(task)
        if store is not None:
            _join_process_group(store, runs.current_config(folder))
        function(folder)
    except KeyboardInterrupt:
        status = Stopped(signal.SIGINT).status
    except Stopped as stopped:
        status = stopped.status
    except Exception as error:
        status, message = explain(error)
        rank = int(os.environ.get("RANK", "0"))
        _record_failure(folder, rank, status, message)
        if print_error:
            print(f"error: rank {rank}: {message}", file=sys.stderr)
    if "repel.monitoring.services" in sys.modules:  # os._exit runs no handlers of exit, which wandb counts on
        sys.modules["repel.monitoring.services"].close_loggers(status)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def _resolve(task: str) -> Callable[[Path], Any]:
    module, _, function = task.partition(":")
    assert module.startswith("repel."), task
    return getattr(importlib.import_module(module), function)


def _record_failure(folder: Path, rank: int, status: int, message: str) -> None:
    details = without_secrets(traceback.format_exc())
    record = {"rank": rank, "status": status, "message": message, "traceback": details}
    with contextlib.suppress(OSError):  # the disk may be full
        (folder / f"error_rank{rank}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _join_process_group(store: str, config: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    accelerator = config.get("accelerator") or config["trainer"]["accelerator"]
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("nccl" if gpu else "gloo", init_method=f"file://{store}", rank=rank, world_size=world)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, however that happens."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(CRASHED)


def main() -> None:
    """python -m repel.engine.rank JOB, as launch.start_ranks runs it; JOB is JSON."""
    outlive_readers()
    job = json.loads(sys.argv[1])
    _die_with_parent(job["parent"])
    targets.allow(**job["allowed"])
    os._exit(run_rank(Path(job["folder"]), job["task"], job["store"]))


if __name__ == "__main__":
    main()
