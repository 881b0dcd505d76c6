"""Start the ranks of one job, in one place.

A job on one device trains here. A job on several is handed to torch's own elastic launcher (the engine of torchrun): it
starts the ranks, watches them and ends all when one fails. Ranks that torchrun or srun has started already meet here.
Either way a rank gets the run folder, which holds the config, and never a command line: so a sweep's ranks cannot run
the sweep again, and no two ranks can run different configs.
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from repel.base.signals import Stopped, heeded
from repel.cli.command import CRASHED, DIVERGED, MISTAKE, explain
from repel.engine import runs
from repel.engine.build import saved
from repel.engine.redact import without_secrets

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from torch.distributed import Store
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

STOPPED = {Stopped(number).status: number for number in (signal.SIGINT, signal.SIGTERM)}  # by a rank's exit status
RUN = "run"  # the store's key under which the first rank tells the others what to do
kept: "list[Store]" = []  # the first rank may be its server, as long as the process lives


def launch(cfg: DictConfig, folder: Path, resume: bool) -> "LightningDataModule | None":
    """Train, on as many ranks as the config says; returns when all are done, with the data if it was read here.

    Raises:
        ValueError: the user's mistake, found by a rank or here.
        RuntimeError: a rank crashed; names it and the cause.
    """
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    check_devices("trainer.", **{key: cfg.trainer[key] for key in ("accelerator", "devices", "precision")})
    if from_outside():
        if (started := int(os.environ["WORLD_SIZE"])) != devices * nodes:
            raise ValueError(
                f"trainer.devices={devices} on trainer.num_nodes={nodes} are not the {started} ranks that torchrun or "
                "srun started; set both to what was started"
            )
        if not kept:
            tell({"folder": str(folder.resolve()), "task": "resume" if resume else "new"})
    elif nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={nodes}: start train.py on each machine with torchrun or srun, see docs/reliability.md"
        )
    elif devices > 1:
        start_ranks(folder, devices, "resume" if resume else "new")
        return None
    from repel.engine.fit import fit

    data = fit(cfg, folder, resume)
    if from_outside():  # the other ranks are done: what is measured now, this one measures alone
        import torch.distributed as dist

        dist.destroy_process_group()
    return data


def from_outside() -> bool:
    """Whether this process is one of several ranks that torchrun or srun has started."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "RANK" not in os.environ:
        adopt_slurm()
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def adopt_slurm() -> None:
    """A task of srun is told its place by other names than a rank of torchrun."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    environment = os.environ
    environment["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(environment["SLURM_STEP_NODELIST"])
    environment["MASTER_PORT"] = str(15000 + int(environment["SLURM_JOB_ID"]) % 10000)  # jobs beside it have others
    environment["RANK"], environment["LOCAL_RANK"] = environment["SLURM_PROCID"], environment["SLURM_LOCALID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]


def meeting() -> "Store":
    """What all ranks from outside can reach."""
    from torch.distributed import PrefixStore, rendezvous

    store, _, _ = next(rendezvous("env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))
    kept.append(store)
    return PrefixStore("repel", store)


def tell(what: dict[str, str]) -> None:
    """The first rank's word to those that wait in join()."""
    meeting().set(RUN, json.dumps(what))


def join() -> int:
    """A rank other than the first, started from outside: wait for the run's folder, then train; gives the exit status.

    It reads no command line: what the first rank made of its own is in the folder.
    """
    try:
        what = json.loads(meeting().get(RUN))
    except Exception:  # of a connection: the first rank said why it ended
        what = {"failed": CRASHED}
    if "failed" in what:
        return what["failed"]
    return train_rank(Path(what["folder"]), what["task"], tell_user=True)


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
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # run_job words what happened, once
    before, place = dict(os.environ), tempfile.TemporaryDirectory(prefix="repel_")
    shared = max(1, (os.cpu_count() or 1) // ranks)
    # what is measured should not depend on how many measure, and another number of threads rounds differently
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads() if task == "evaluate" else shared))
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")  # one machine: nothing listens beyond it
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    signals = heeded()
    config = LaunchConfig(  # ranks meet in a file: a port would be open to the network
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=folder.name, rdzv_backend="c10d",
        rdzv_configs={"store_type": "file"}, rdzv_endpoint=f"{place.name}/launcher", local_addr="127.0.0.1",
        max_restarts=0, logs_specs=DefaultLogsSpecs(), signals_to_handle=",".join(number.name for number in signals),
    )  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in signals}
    for old in records(folder):
        old.unlink()
    command = ["-m", "repel.engine.launch", str(folder), task, str(os.getpid()), f"{place.name}/ranks"]
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as stopped:  # it was handed on to the ranks, which have ended
        raise Stopped(stopped.sigval) from None
    except ChildFailedError as failed:
        raise failure(failed, folder) from None
    finally:
        place.cleanup()
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
    if first.exitcode in STOPPED:
        return Stopped(STOPPED[first.exitcode])
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

        error: Exception = Diverged(message)  # it names the rank, where that matters
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
    """One rank: python -m repel.engine.launch FOLDER new|resume|evaluate PARENT STORE, started by start_ranks."""
    folder, task, parent, store = sys.argv[1:]
    die_with_parent(int(parent))
    os._exit(train_rank(Path(folder), task, store))


def train_rank(folder: Path, task: str, store: str | None = None, tell_user: bool = False) -> int:
    """Run a rank's part of the task; gives the exit status. A failure is recorded for the parent, or told the user.

    The process must then end by os._exit: the other ranks may never answer the farewell of the process group.
    """
    status = 0
    try:
        if store is not None:
            meet(store, runs.read_config(folder))
        if task == "evaluate":
            from repel.report.evaluate import evaluate_here

            evaluate_here(folder)
        else:
            from repel.engine.fit import fit

            fit(saved(runs.read_config(folder)), folder, resume=task == "resume")
    except KeyboardInterrupt:
        status = Stopped(signal.SIGINT).status
    except Stopped as stopped:
        status = stopped.status
    except Exception as error:
        status, message = explain(error, "train")
        rank = os.environ.get("RANK", "0")
        record = folder / f"error_rank{rank}.txt"
        with contextlib.suppress(OSError):  # the disk may be full
            record.write_text(f"{status}\n{message}\n{without_secrets(traceback.format_exc())}")
        if tell_user:
            print(f"error: rank {rank}: {message}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def meet(store: str, config: dict) -> None:
    """Make the process group of ranks on this machine."""
    import torch
    import torch.distributed as dist

    accelerator = config.get("accelerator") or config["trainer"]["accelerator"]
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    place = {key: int(os.environ[name]) for key, name in (("rank", "RANK"), ("world_size", "WORLD_SIZE"))}
    dist.init_process_group("nccl" if gpu else "gloo", init_method=f"file://{store}", **place)


if __name__ == "__main__":
    rank_main()
