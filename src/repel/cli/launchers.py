"""A sweep's failed jobs, whichever of Hydra's launchers ran them: one after another here, or in other processes.

A job's exception is all that every launcher hands back, in Hydra's JobReturn; a list of this process would stay empty.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from repel.engine.outcomes import CRASHED, one_line

__all__ = ["JobFailed", "LauncherFailed", "counted_failures"]


class JobFailed(Exception):
    """A job failed and has said why. Plain enough to be sent from another process.

    Args:
        status: CRASHED, MISTAKE or DIVERGED.
    """

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class LauncherFailed(Exception):
    """A launcher returned no results, for example because a process of its own was killed."""


class _CountingLauncher(Launcher):
    """A launcher, with the exit statuses of its failed jobs noted in the order of the jobs."""

    def __init__(self, launcher: Launcher, config: DictConfig, failures: list[int]):
        self.launcher, self.config, self.failures = launcher, config, failures

    def setup(self, **options: Any) -> None:
        """Nothing: Hydra has set up the launcher itself."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        choices = self.config.hydra.runtime.choices
        try:
            jobs = self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
        except (HydraException, OmegaConfBaseException, ValueError):  # a config that cannot be composed
            raise
        except Exception as error:
            reason = one_line(str(error).partition(". ")[0])  # joblib goes on for a paragraph
            raise LauncherFailed(
                f"hydra/launcher={choices['hydra/launcher']} lost its jobs: {type(error).__name__}: {reason}; "
                f"the same command with sweep.resume={self.config.hydra.sweep.dir} runs what is missing"
            ) from error
        for job in jobs:
            if job.status == JobStatus.FAILED:
                raised = job._return_value  # return_value would raise it
                self.failures.append(raised.status if isinstance(raised, JobFailed) else CRASHED)
                if choices["hydra/sweeper"] != "optuna":  # which marks a trial as failed by its exception
                    job.status, job.return_value = JobStatus.COMPLETED, math.nan  # else it would end the sweep
        return jobs


@contextlib.contextmanager
def counted_failures(failures: list[int]) -> Iterator[None]:
    """Within it, Hydra's launchers append the exit status of every failed job to the list."""
    usual = Plugins.instantiate_launcher

    def instantiate_launcher(self: Plugins, hydra_context: Any, task_function: Any, config: DictConfig) -> Launcher:
        return _CountingLauncher(usual(self, hydra_context, task_function, config), config, failures)

    # of the class: launchers send the instance to their processes
    Plugins.instantiate_launcher = instantiate_launcher  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plugins.instantiate_launcher = usual  # type: ignore[method-assign]
