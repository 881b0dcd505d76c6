"""Jobs of a sweep side by side, in processes of a launcher's: each has a file for its output, and a signal to the
command stops them all.
"""

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from repel.base.signals import Stopped, active_signals
from repel.cli.shares import take_share

__all__ = [
    "check_launcher",
    "is_here",
    "job_beside_others",
    "output_of",
    "stopping_jobs",
]

PATIENCE = 60.0  # seconds that a stopped command waits for its jobs to end a step and save
_stopped: list[BaseException] = []  # what ended this process's last job, if a signal did


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
    if _stopped:  # the launcher's next job in this process
        with contextlib.suppress(OSError):  # a run to be resumed has files
            Path(config.runtime.output_dir).rmdir()  # Hydra has made it
        raise _stopped[0]
    take_share(config.runtime.choices["hydra/launcher"], config.launcher, threads)
    with _output_in(output_of(Path(config.runtime.output_dir))) as shared, _signals_raise_once():
        try:
            yield shared
        except (Stopped, KeyboardInterrupt) as stop:
            _stopped.append(stop)
            raise


@contextlib.contextmanager
def _signals_raise_once() -> Iterator[None]:
    """^C reaches a process by its terminal and by the command: it would cut off what the first one began."""

    def handler(number: int, frame: FrameType | None) -> None:
        for other in handlers:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    handlers = {number: signal.signal(number, handler) for number in active_signals()}
    try:
        yield
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)


@contextlib.contextmanager
def stopping_jobs(running: Callable[[], int], own: bool) -> Iterator[None]:
    """Within it, a signal to the command also stops the jobs in its child processes, and waits for their checkpoints;
    a second one does not wait.

    Args:
        running: the number of jobs that are still running.
        own: whether the jobs are in child processes; else their launcher ends them.

    Raises:
        Stopped: as without it.
    """
    numbers: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        if own and len(numbers) == 1:
            _stop_children(running)
        raise KeyboardInterrupt  # Ray takes notice of no other exception

    handlers = {number: signal.signal(number, handler) for number in active_signals()}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(numbers[0] if numbers else signal.SIGINT) from None
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)


def _stop_children(running: Callable[[], int]) -> None:
    for pid in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if running():
        print("stopping the jobs at their next step; a second ^C ends them at once", file=sys.stderr)
    until = time.monotonic() + PATIENCE
    while running() and time.monotonic() < until:
        time.sleep(0.1)


def _children() -> list[int]:
    """Processes that this one has started; none where the system does not say."""
    found = (path.read_text(encoding="utf-8").split() for path in Path("/proc/self/task").glob("*/children"))
    return [int(pid) for pids in found for pid in pids]


def output_of(folder: Path) -> Path:
    """The file for the output of a job, which exists also where its folder does not, as after a mistake."""
    return folder.parent / "output" / f"{folder.name}.txt"


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
