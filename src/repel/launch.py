"""Start the ranks of one job, in one place.

A job on one device trains here. A job on several is handed to torch's own elastic launcher (the engine of torchrun): it
starts the ranks, watches them and ends all when one fails. Each rank gets the run folder, which holds the config, and
never a command line: so a sweep's ranks cannot run the sweep again.
"""

import ctypes
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from repel import runs
from repel.config import CRASHED, DIVERGED, INTERRUPTED, MISTAKE, explain, saved

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def launch(cfg: DictConfig, folder: Path, resume: bool) -> "LightningDataModule | None":
    """Train, on as many ranks as the config says; returns when all are done, with the data if it was read here.

    Raises:
        ValueError: the user's mistake, found by a rank or here.
        RuntimeError: a rank crashed; names it and the cause.
    """
    if "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        raise ValueError(
            "this is one of several ranks (torchrun or srun started it); start train.py once, with trainer.devices=..."
        )
    check_devices("trainer.", **{key: cfg.trainer[key] for key in ("accelerator", "devices", "precision")})
    if cfg.trainer.devices == 1:
        from repel.training import fit

        return fit(cfg, folder, resume)
    start_ranks(folder, cfg.trainer.devices, "resume" if resume else "new")
    return None


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


def start_ranks(folder: Path, ranks: int, task: str) -> None:
    """Run new, resume or evaluate on so many ranks, see rank_main; returns when all are done."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # run_job words the failure, once
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: nothing listens beyond it
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=folder.name, rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", max_restarts=0, logs_specs=DefaultLogsSpecs(),
    )  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for old in records(folder):
        old.unlink()
    command = ["-m", "repel.launch", str(folder), task, str(os.getpid())]
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as stopped:
        raise KeyboardInterrupt from stopped
    except ChildFailedError as failed:
        raise failure(failed, folder) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # the launcher leaves its own behind
        os.environ.clear()
        os.environ.update(before)  # the next job of a sweep starts as this one did


def records(folder: Path) -> list[Path]:
    """What failing ranks left, the first to fail first."""
    return sorted(folder.glob("error_rank*.txt"), key=lambda path: path.stat().st_mtime_ns)


def failure(failed: "ChildFailedError", folder: Path) -> BaseException:
    """What the first rank to fail died of, as the exception it would have been here, its traceback as a note."""
    rank, first = failed.get_first_failure()
    if first.exitcode == INTERRUPTED:
        return KeyboardInterrupt()
    left = records(folder)
    # a rank killed from outside leaves no record; then its neighbours complain of a lost connection. One that the
    # launcher itself had to kill, long after another failed, is no cause.
    for number, died in failed.failures.items():
        if died.exitcode == -signal.SIGKILL and (not left or died.timestamp <= left[0].stat().st_mtime + 5):
            return RuntimeError(f"rank {number} was killed by signal 9 (SIGKILL); out of memory?")
    if not left:
        return RuntimeError(f"rank {rank} ended with status {first.exitcode}")
    rank = int(left[0].stem.removeprefix("error_rank"))
    status, message, details = left[0].read_text().split("\n", 2)
    for record in left:
        record.unlink()
    if int(status) == MISTAKE:
        return ValueError(message)
    if int(status) == DIVERGED:
        from repel.module import Diverged

        error: Exception = Diverged(f"{message}, on rank {rank}")
    else:
        error = RuntimeError(f"rank {rank}: {message}")
    error.add_note(details)
    return error


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, however that happens."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(CRASHED)


def rank_main() -> None:
    """One rank: python -m repel.launch FOLDER new|resume|evaluate PARENT, started by start_ranks."""
    die_with_parent(int(sys.argv[3]))
    folder = Path(sys.argv[1])
    try:
        if sys.argv[2] == "evaluate":
            evaluate_rank(folder)
        else:
            from repel.training import fit

            fit(saved(runs.read_config(folder)), folder, resume=sys.argv[2] == "resume")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        status, message = explain(error, "train")
        record = folder / f"error_rank{os.environ['RANK']}.txt"
        record.write_text(f"{status}\n{message}\n{traceback.format_exc()}")
        sys.stdout.flush()
        os._exit(status)  # not sys.exit: the other ranks may never answer the farewell of the process group


def evaluate_rank(folder: Path) -> None:
    import torch.distributed as dist

    from repel.evaluation.report import device_of, evaluate_here

    gpu = device_of(runs.read_config(folder)["accelerator"]).type == "cuda"
    dist.init_process_group("nccl" if gpu else "gloo")
    evaluate_here(folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    rank_main()
