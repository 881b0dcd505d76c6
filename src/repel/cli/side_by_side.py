"""Jobs of a sweep side by side, in processes of a launcher's: each has its share of the machine, and a file for its
output. Ray and SLURM hand out GPUs and cores themselves; joblib does not.
"""

import contextlib
import fcntl
import functools
import io
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from repel.base.cores import SHARE, usable_cores

__all__ = ["PLACES", "check_launcher", "is_here", "job_beside_others", "output_of", "own_gpus", "places"]

PLACES = "REPEL_PLACES"  # in the environment: a folder with a locked file for each process of joblib's
_taken: list[TextIO] = []  # this process's place, whose lock ends with it


def is_here(config: DictConfig) -> bool:
    """Whether a sweep's jobs run one after another in the command's own process."""
    return config.hydra.runtime.choices["hydra/launcher"] == "basic"


def check_launcher(config: DictConfig) -> None:
    """Options of a launcher with which no job could run.

    Raises:
        ValueError: one line that names the key.
    """
    jobs = config.sweep.get("jobs", 1) if "sweep" in config else 1
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ValueError(f"sweep.jobs must be a whole number, at least 1, got {jobs!r}")
    for key in ("nodes", "tasks_per_node"):
        if (number := config.hydra.launcher.get(key, 1)) != 1:
            raise ValueError(
                f"hydra.launcher.{key}={number}: each task would run the whole job; leave it at 1, and let the job "
                "start its ranks by trainer.devices=N"
            )


@contextlib.contextmanager
def places() -> Iterator[None]:
    """For a whole command: a folder in which joblib's processes find which of the shares is free."""
    with tempfile.TemporaryDirectory(prefix="repel_") as folder:
        os.environ[PLACES] = folder
        try:
            yield
        finally:
            del os.environ[PLACES]


@contextlib.contextmanager
def job_beside_others(threads: str | None) -> Iterator[TextIO | None]:
    """Within it, a job that a launcher has put into a process of its own has its share of the machine, and its output
    is in the sweep's folder. Gives the stream that the others share, or None where a job runs alone.

    Args:
        threads: OMP_NUM_THREADS as the user has it; else launchers set it.
    """
    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN or config.runtime.choices["hydra/launcher"] == "basic":
        yield None
        return
    _take_share(config.runtime.choices["hydra/launcher"], config.launcher, threads)
    with _output_in(output_of(Path(config.runtime.output_dir))) as shared:
        yield shared


def output_of(folder: Path) -> Path:
    """The file for the output of a job, which exists also where its folder does not, as after a mistake."""
    return folder.parent / "output" / f"{folder.name}.txt"


@functools.cache  # once for all jobs of a process
def _take_share(name: str, options: DictConfig, threads: str | None) -> None:
    if name == "joblib":
        import joblib

        jobs = joblib.effective_n_jobs(options.n_jobs)
        os.environ[SHARE] = str(max(1, usable_cores() // jobs))
        if (visible := _visible_gpus()) and PLACES in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own_gpus(visible, _take_place(), jobs))
    elif name == "ray":
        os.environ[SHARE] = str(max(1, int(options.ray.remote.get("num_cpus") or 1)))
    if threads is None and SHARE in os.environ:
        os.environ.pop("OMP_NUM_THREADS", None)  # the launcher's, read already: ranks of the job divide its cores


def _visible_gpus() -> list[str]:
    import torch

    number = torch.cuda.device_count()
    typed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (typed or [str(gpu) for gpu in range(number)])[:number]


def own_gpus(visible: list[str], place: int, jobs: int) -> list[str]:
    """The GPUs of one of several jobs at a time: an equal number for each; one, which others share, if there are fewer.

    >>> [own_gpus(["0", "1", "2", "3"], place, jobs=2) for place in range(2)]
    [['0', '1'], ['2', '3']]
    >>> [own_gpus(["0", "1"], place, jobs=3) for place in range(3)]
    [['0'], ['1'], ['0']]
    """
    each = max(1, len(visible) // jobs)
    first = place * each % len(visible)
    return visible[first : first + each]


def _take_place() -> int:
    """The first number that no other process holds, for as long as this one lives."""
    for number in itertools.count():
        file = (Path(os.environ[PLACES]) / str(number)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _taken.append(file)
            return number
    raise AssertionError("numbers do not end")


@contextlib.contextmanager
def _output_in(path: Path) -> Iterator[TextIO]:
    """What this process and its children print goes to the file; gives the stream that they had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("ab") as file, os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as shared:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # for whoever watches the file
        try:
            yield shared
        finally:
            _flush()
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
