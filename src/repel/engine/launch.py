"""Start the ranks of one job, in one place.

A job on one device trains here. A job on several is handed to torch's own elastic launcher (the engine of torchrun): it
starts the ranks, see rank.py, watches them and ends all when one fails. Ranks that torchrun or srun has started meet by
external_launcher.py.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from repel.base.cores import limit_threads, usable_cores
from repel.base.signals import Stopped, active_signals
from repel.engine.external_launcher import announce_run, is_external_rank
from repel.engine.outcomes import CRASHED, RankFailed
from repel.engine.rank import failure_records
from repel.engine.targets import allowed

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig

    from repel.data.datamodule import PairData

__all__ = ["check_devices", "launch", "start_ranks"]

NEW, RESUME = "repel.engine.fit:fit_new", "repel.engine.fit:fit_resumed"  # a rank's task
# by a rank's exit status; a negative one is of a rank that a signal reached before or after its own handlers
STOPPED = {status: number for number in (signal.SIGINT, signal.SIGTERM) for status in (Stopped(number).status, -number)}


def launch(cfg: DictConfig, folder: Path, resume: bool) -> "PairData | None":
    """Train, on as many ranks as the config says; returns when all are done, with the data if it was read here.

    Raises:
        ValueError: the user's mistake, found here.
        RankFailed: a rank failed; says why.
    """
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    check_devices("trainer.", **{key: cfg.trainer[key] for key in ("accelerator", "devices", "precision")})
    links: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    task = RESUME if resume else NEW
    if is_external_rank():
        if (started := int(os.environ["WORLD_SIZE"])) != devices * nodes:
            raise ValueError(
                f"trainer.devices={devices} on trainer.num_nodes={nodes} are not the {started} ranks that torchrun or "
                "srun started; set both to what was started; in a shell that srun opened, unset SLURM_STEP_NUM_TASKS"
            )
        links = announce_run(folder, task)
    elif nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={nodes}: start train.py on each machine with torchrun or srun, see docs/reliability.md"
        )
    elif devices > 1:
        start_ranks(folder, devices, task, shared_cores=True)
        return None
    from repel.engine.fit import fit

    with links:
        data = fit(cfg, folder, resume)
    if is_external_rank():  # the other ranks are done: what is measured now, this one measures alone
        import torch.distributed as dist

        dist.destroy_process_group()
    return data


def check_devices(group: str, accelerator: str, devices: int, precision: str = "32-true") -> None:
    """Raises ValueError where the machine lacks what the options, named after their group, ask for."""
    import torch

    gpus = torch.cuda.device_count()
    if accelerator == "gpu" and not gpus:
        raise ValueError(f"{group}accelerator=gpu: there is no GPU that torch can use; use cpu or auto")
    if accelerator != "cpu" and 0 < gpus < devices:
        raise ValueError(
            f"{group}devices={devices}, but there {'is' if gpus == 1 else 'are'} {gpus} GPU{'s' * (gpus > 1)}; "
            f"use {group}devices={gpus}, or {group}accelerator=cpu"
        )
    if str(precision).startswith("16") and (accelerator == "cpu" or not gpus):
        raise ValueError(
            f"{group}precision={precision} needs a GPU: float16 is slow and incomplete on CPUs; "
            "use 32-true or bf16-mixed"
        )


def start_ranks(folder: Path, ranks: int, task: str, shared_cores: bool) -> None:
    """Run a task on so many ranks of this machine; returns when all are done.

    Args:
        folder: the run folder, which holds the config.
        task: module:function, called by each rank with the folder.
        shared_cores: give each rank its share of the cores that may be used; else as many threads as this process has:
            what is measured should not depend on how many measure, and another number of threads rounds differently.

    Raises:
        RankFailed: the first rank to fail says why.
        Stopped: a signal reached a rank or this process.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the command reports what happened, once
    failure_records(folder, remove=True)
    limit_threads()
    threads = max(1, usable_cores() // ranks) if shared_cores else torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="repel_") as place, _restored_process():
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")  # one machine: nothing listens beyond it
            os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
            job = {"folder": str(folder), "task": task, "parent": os.getpid(), "store": f"{place}/ranks"}
            job["allowed"] = allowed()
            elastic_launch(_launch_config(folder.name, ranks, place), sys.executable)(
                "-P",
                "-m",
                "repel.engine.rank",
                json.dumps(job),  # -P: the working directory is not on sys.path
            )
    except SignalException as stopped:  # it was handed on to the ranks, which have ended
        raise Stopped(stopped.sigval) from None
    except ChildFailedError as failed:
        raise _failure(failed, folder) from None


def _launch_config(name: str, ranks: int, place: str) -> "LaunchConfig":
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(  # ranks meet in a file: a port would be open to the network
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=name, rdzv_backend="c10d", max_restarts=0,
        rdzv_configs={"store_type": "file"}, rdzv_endpoint=f"{place}/launcher", local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(f"{place}/logs"),  # else in a folder of its own, which stays
        signals_to_handle=",".join(number.name for number in active_signals()),
    )  # fmt: skip


@contextlib.contextmanager
def _restored_process() -> Iterator[None]:
    """Put back the environment and the signal handlers, which the launcher changes: a sweep's next job needs them."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in active_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)


def _failure(failed: "ChildFailedError", folder: Path) -> BaseException:
    """Why the first rank to fail ended."""
    rank, first = failed.get_first_failure()
    if first.exitcode in STOPPED:
        return Stopped(STOPPED[first.exitcode])
    records = failure_records(folder, remove=True)
    # a rank killed from outside leaves no record; then its neighbors complain of a lost connection. One that the
    # launcher itself had to kill, long after another failed, is no cause.
    for number, child in failed.failures.items():
        if child.exitcode == -signal.SIGKILL and (not records or child.timestamp <= records[0].time + 5):
            return RankFailed(CRASHED, f"rank {number} was killed by signal 9 (SIGKILL); out of memory?")
    if not records:
        return RankFailed(CRASHED, f"rank {rank} ended with status {first.exitcode}")
    record = records[0]
    # a mistake is not the rank's, and Diverged names the rank where that matters
    whose = f"rank {record.rank}: " if record.status == CRASHED else ""
    error = RankFailed(record.status, whose + record.message)
    error.add_note(record.traceback)
    return error
