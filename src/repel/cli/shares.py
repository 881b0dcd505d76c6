"""The share of a machine that each of a sweep's jobs side by side has: its own GPUs, and a part of the cores.

Ray and SLURM hand them out themselves; joblib does not.
"""

import contextlib
import fcntl
import functools
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig

from repel.base.cores import SHARE, usable_cores

__all__ = ["PLACES", "own_gpus", "places", "take_share"]

PLACES = "REPEL_PLACES"  # in the environment: a folder with a locked file for each process of joblib's
_taken: list[TextIO] = []  # this process's place, whose lock ends with it


@contextlib.contextmanager
def places() -> Iterator[None]:
    """For a whole command: a folder in which joblib's processes find which of the shares is free."""
    with tempfile.TemporaryDirectory(prefix="repel_") as folder:
        os.environ[PLACES] = folder
        try:
            yield
        finally:
            del os.environ[PLACES]


@functools.cache  # once for all jobs of a process
def take_share(name: str, options: DictConfig, threads: str | None) -> None:
    """Set this process's share for what is done in it from now on.

    Args:
        name: of the launcher.
        options: of the launcher.
        threads: OMP_NUM_THREADS as the user has it; else launchers set it.
    """
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
        file = (Path(os.environ[PLACES]) / str(number)).open("w", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _taken.append(file)
            return number
    raise AssertionError("numbers do not end")
