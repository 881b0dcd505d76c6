"""One job of a command, a single run or one of a sweep: checked, run, and its failure reported and recorded."""

import contextlib
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from repel.base.signals import SIGNALS, Stopped
from repel.base.terminal import outlive_readers
from repel.cli import folders
from repel.cli import optuna_study as study
from repel.cli.arguments import to_type
from repel.cli.baseline import own_folders
from repel.cli.checks import check
from repel.cli.hydra_errors import explain
from repel.cli.launchers import JobFailed
from repel.cli.resume import relative_to_cwd
from repel.cli.side_by_side import job_beside_others, output_of
from repel.engine import run_lock, runs, targets
from repel.engine.configs import to_container
from repel.engine.isolation import isolated_job
from repel.engine.outcomes import CRASHED, DIVERGED, MISTAKE
from repel.engine.redact import without_secrets

__all__ = ["run_job"]

for resolver in (  # here: of this package, a launcher's other processes may import this file alone
    folders.run_folder, folders.sweep_folder, folders.out_folder, folders.own_folder,
    study.trials_left, study.sampler_seed,
):  # fmt: skip
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def run_job(
    task: Callable, name: str, tracebacks: bool, failures: list[int], arguments: list[str], threads: str | None,
    cfg: DictConfig,
) -> float | None:  # fmt: skip
    """One job, in this process or in one of a launcher's; one of a sweep raises JobFailed, see launchers.py.

    Args:
        failures: the exit status of a single run that failed; a sweep's job, which may be in another process, raises.
        arguments: the command as it was typed.
        threads: OMP_NUM_THREADS as it was then.
    """
    sys.argv = arguments  # another process of the launcher's has its own
    # under hydra.job.chdir too: paths are typed from here, a run knows its folder
    os.chdir(HydraConfig.get().runtime.cwd)
    folder = Path(HydraConfig.get().runtime.output_dir)
    with job_beside_others(threads) as shared:
        if shared is None:
            return _run_job(task, name, tracebacks, failures, cfg)
        print(f"begins   {relative_to_cwd(folder)}, output in {relative_to_cwd(output_of(folder))}", file=shared)
        try:
            objective = _run_job(task, name, tracebacks, failures, cfg)
        except JobFailed as failed:
            print(f"failed   {relative_to_cwd(folder)}: {failed.message}", file=shared)
            raise
        print(f"run: {relative_to_cwd(folder)}", file=shared)
        return objective


def _run_job(task: Callable, name: str, tracebacks: bool, failures: list[int], cfg: DictConfig) -> float | None:
    """Check a job's config and run it; on failure report why in a line and keep the traceback in error.txt."""
    folder, several = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode == RunMode.MULTIRUN
    status, message = CRASHED, ""
    outlive_readers(f"the command goes on, into {relative_to_cwd(folder)}")
    try:
        for own in own_folders():
            targets.allow_folder(own)
        targets.allow(roots=[str(Path.cwd())])
        check(cfg, name)
        targets.allow(targets.targets(to_container(cfg)))  # what was typed: ranks read it from a file
        with isolated_job() if several else contextlib.nullcontext():
            result = task(cfg, folder)
        if folder.exists():
            print(f"run: {relative_to_cwd(folder)}", flush=True)
        status = 0
        return result
    except (KeyboardInterrupt, Stopped) as stop:
        status = stop.status if isinstance(stop, Stopped) else Stopped(signal.SIGINT).status
        with _ignored_signals():  # another one would cut off the line that says how to resume
            print(f"{str(stop) or 'interrupted'}; {_resume_hint(folder)}", file=sys.stderr)
        raise
    except Exception as error:
        status, message = explain(error, name)
        if tracebacks:
            traceback.print_exc()
        resumed = status == MISTAKE and cfg.get("resume")  # a mistake about another run's folder
        _record_failure(folder, status, message, keep_traceback=not resumed)
    finally:
        run_lock.unlock(folder)
        _close_loggers(status)
    # not raised above: Hydra keeps it for the sweep, and with it would keep all that the failed job had in memory
    if several:
        raise JobFailed(status, message)
    failures.append(status)  # raised, Hydra would print it a second time
    return math.nan


@contextlib.contextmanager
def _ignored_signals() -> Iterator[None]:
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _close_loggers(status: int) -> None:
    if "repel.monitoring.services" in sys.modules:  # which imports torch
        sys.modules["repel.monitoring.services"].close_loggers(status)


def _resume_hint(folder: Path) -> str:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return f"the same command with {to_type(f'sweep.resume={relative_to_cwd(folder.parent)}')} runs what is missing"
    if (folder / "checkpoints" / "last.ckpt").exists():
        return f"resume with: {' '.join(runs.program())} {to_type(f'resume={relative_to_cwd(folder)}')}"
    return "no checkpoint yet"


def _record_failure(folder: Path, status: int, message: str, keep_traceback: bool) -> None:
    """Print the line; in the run's folder, the traceback and the outcome."""
    if status == MISTAKE:
        runs.remove_if_unused(folder)
    if folder in run_lock.locked and (folder / "config.yaml").exists() and keep_traceback:
        with contextlib.suppress(OSError):  # the disk may be full
            (folder / "error.txt").write_text(without_secrets(traceback.format_exc()), encoding="utf-8")
            message += f"\nhint: the traceback is in {relative_to_cwd(folder / 'error.txt')}"
    if status == DIVERGED and folder in run_lock.locked:
        runs.update_environment(folder, outcome="diverged", objective=None)  # a second attempt would diverge too
    print(f"error: {message}", file=sys.stderr)
