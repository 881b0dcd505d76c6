"""A sweep's jobs, whichever of Hydra's launchers runs them: their folders, and which of them failed.

A job's exception is all that every launcher hands back, in Hydra's JobReturn; a list of this process would stay empty.
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel.base.signals import Stopped
from repel.cli import slurm
from repel.cli.arguments import quoted_for_hydra, to_type
from repel.cli.resume import relative_to_cwd
from repel.cli.shares import PLACES, places
from repel.cli.side_by_side import check_launcher, is_here, stopping_jobs
from repel.cli.sweeps import job_folders, run_folders
from repel.engine import run_lock
from repel.engine.outcomes import CRASHED, one_line

__all__ = ["JobFailed", "LauncherFailed", "counted_failures"]

NUMBERED = "${hydra.job.num}"  # conf's name of a job's folder: another one is the user's own


class JobFailed(Exception):
    """A job failed. Plain enough to be sent from another process.

    Args:
        status: CRASHED, MISTAKE or DIVERGED.
        message: why, in a line, which the job has printed.
    """

    def __init__(self, status: int, message: str):
        super().__init__(status, message)
        self.status, self.message = status, message


class LauncherFailed(Exception):
    """A launcher returned no results, for example because a process of its own was killed."""


class _CountingLauncher(Launcher):
    """A launcher, with the exit statuses of its failed jobs noted in the order of the jobs.

    Args:
        command: closed when the command ends. A line for each failed job is printed then, with the job's folder; on
            stderr where the job itself has printed into a file.
    """

    def __init__(self, launcher: Launcher, config: DictConfig, failures: list[int], command: ExitStack):
        self.launcher, self.config, self.failures = launcher, config, failures
        self.command, self.claimed, self.lines = command, set[str](), list[str]()

    def setup(self, **options: Any) -> None:
        """Nothing: Hydra has set up the launcher itself."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        check_launcher(self.config)
        choices, given = self.config.hydra.runtime.choices, [list(overrides) for overrides in job_overrides]
        if choices["hydra/launcher"] == "joblib" and PLACES not in os.environ:
            self.command.enter_context(places())
        if choices["hydra/launcher"] == "ray" and self.config.hydra.launcher.ray.init.get("address"):
            # the plugin sets a size where none is, and Ray refuses one for a cluster that runs already
            self.launcher.ray_cfg.init.setdefault("object_store_memory", None)  # type: ignore[attr-defined]
        jobs = self._launched(self._with_folders(given, initial_job_idx), initial_job_idx)
        for job, overrides in zip(jobs, given, strict=True):
            if job.status == JobStatus.FAILED:
                self._note_failure(job, [o for o in overrides if not all(o in other for other in given)])
                if choices["hydra/sweeper"] != "optuna":  # which marks a trial as failed by its exception
                    job.status, job.return_value = JobStatus.COMPLETED, math.nan  # else it would end the sweep
        return jobs

    def _with_folders(self, given: list[list[str]], first: int) -> list[list[str]]:
        """The jobs' overrides, with the name of its folder for each that does not get the one of its number.

        Here, in one process: jobs that looked for a free number side by side would find the same one.

        Raises:
            ValueError: the folder of a new sweep has runs.
        """
        place = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        assert isinstance(place, dict), "it is a group"
        names = [str(number) for number in range(first, first + len(given))]
        if "sweep" in self.config and place["subdir"] == NUMBERED:  # train
            resumed = self.config.sweep.resume is not None or slurm.requeued()
            names = job_folders(Path(self.config.hydra.sweep.dir), given, first, self.claimed, resumed)
        named = [
            overrides if name == str(number) else [*overrides, f"hydra.sweep.subdir={quoted_for_hydra(name)}"]
            for number, (overrides, name) in enumerate(zip(given, names, strict=True), first)
        ]
        if is_here(self.config):
            return named
        folder = quoted_for_hydra(str(Path(self.config.hydra.sweep.dir).resolve()))  # processes start anywhere
        return [[*overrides, f"hydra.sweep.dir={folder}"] for overrides in named]

    def _launched(self, job_overrides: list[list[str]], first: int) -> Sequence[JobReturn]:
        choice, folder = self.config.hydra.runtime.choices["hydra/launcher"], self.config.hydra.sweep.dir
        again = f"the same command with {to_type(f'sweep.resume={folder}')} runs what is missing"
        own = choice in ("joblib", "submitit_local")  # processes of this command's
        try:
            with nullcontext() if is_here(self.config) else stopping_jobs(self._running, own):
                return self.launcher.launch(job_overrides, initial_job_idx=first)
        except (HydraException, OmegaConfBaseException, ValueError):  # a config that cannot be composed
            raise
        except (Stopped, KeyboardInterrupt) as stop:
            if not is_here(self.config):  # else the job itself has said it
                left = "; the jobs that SLURM has go on, scancel ends them" * (choice == "submitit_slurm")
                print(f"{str(stop) or 'interrupted'}{left}; {again}", file=sys.stderr)
            raise
        except Exception as error:
            reason = one_line(str(error).partition(". ")[0])  # joblib goes on for a paragraph
            raise LauncherFailed(
                f"hydra/launcher={choice} lost its jobs: {type(error).__name__}: {reason}; {again}"
            ) from error

    def _running(self) -> int:
        folders = run_folders(Path(self.config.hydra.sweep.dir))
        return sum(folder.name in self.claimed and run_lock.is_locked(folder) for folder in folders)

    def _note_failure(self, job: JobReturn, varied: list[str]) -> None:
        assert job.hydra_cfg is not None, "Hydra has run it"
        raised = job._return_value  # return_value would raise it
        known = isinstance(raised, JobFailed)
        self.failures.append(raised.status if known else CRASHED)
        message = raised.message if known else f"{type(raised).__name__}: {one_line(raised)}"
        folder = relative_to_cwd(Path(job.hydra_cfg.hydra.runtime.output_dir))
        if not self.lines:
            self.command.callback(self._print_lines)
        self.lines.append(f"failed   {folder}" + f" ({' '.join(varied)})" * bool(varied) + f": {message}")

    def _print_lines(self) -> None:
        print(*self.lines, sep="\n", file=sys.stdout if is_here(self.config) else sys.stderr)


@contextlib.contextmanager
def counted_failures(failures: list[int]) -> Iterator[None]:
    """Within it, Hydra's launchers append the exit status of every failed job to the list; then each job is named."""
    usual, command = Plugins.instantiate_launcher, ExitStack()

    def instantiate_launcher(self: Plugins, hydra_context: Any, task_function: Any, config: DictConfig) -> Launcher:
        launcher = usual(self, hydra_context, task_function, config)
        return _CountingLauncher(launcher, config, failures, command)

    # of the class: launchers send the instance to their processes
    Plugins.instantiate_launcher = instantiate_launcher  # type: ignore[method-assign]
    try:
        with command:
            yield
    finally:
        Plugins.instantiate_launcher = usual  # type: ignore[method-assign]
