"""The commands: run folders, one-line errors, exit statuses.

This package alone knows of Hydra's command line. Nothing here imports torch or lightning at the top, so that a mistake
is reported at once.
"""

import contextlib
import functools
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel import __version__
from repel.base.encoding import restart_in_utf8_mode
from repel.base.signals import SIGNALS, Stopped, raise_on_signal
from repel.base.terminal import outlive_readers
from repel.cli import folders
from repel.cli import optuna_study as study
from repel.cli.arguments import spelled_for_hydra, to_type
from repel.cli.baseline import group_options, own_folders
from repel.cli.checks import check
from repel.cli.going_on import with_options_of_run
from repel.cli.help import help_page
from repel.cli.latest import with_latest
from repel.cli.launchers import JobFailed, LauncherFailed, counted_failures
from repel.cli.methods import METHODS_IN, methods_table
from repel.cli.resume import relative_to_cwd
from repel.cli.side_by_side import job_beside_others, output_of
from repel.cli.suggestions import check_names, config_mistake, explain, respelled
from repel.engine import runs, targets
from repel.engine.configs import CONF, to_container
from repel.engine.isolation import isolated_job
from repel.engine.outcomes import CRASHED, DIVERGED, MISTAKE, one_line
from repel.engine.redact import without_secrets

__all__ = ["entry_point"]


for resolver in (
    folders.run_folder, folders.sweep_folder, folders.out_folder, folders.own_folder,
    study.trials_left, study.sampler_seed,
):  # fmt: skip
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def entry_point(name: str) -> Callable:
    """Decorate `task(cfg, folder)` into a command: conf/<name>.yaml, run folders, one-line errors, exit statuses.

    The decorated function takes no arguments. `task` gets the composed config and its run folder, and returns the
    number that a sweep optimizes, or None.
    """

    def decorate(task: Callable[[DictConfig, Path], float | None]) -> Callable[[], None]:
        @functools.wraps(task)
        def command() -> None:
            restart_in_utf8_mode()
            if "--methods" in sys.argv:
                _print_methods()
                return
            raise_on_signal()
            outlive_readers()
            if _answered(name, sys.argv[1:]):
                return
            first_of_many = ("RANK" in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ) and _is_first_rank(name)
            tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes its exceptions on, for us to report
            failures: list[int] = []
            threads = os.environ.get("OMP_NUM_THREADS")
            job = functools.partial(run_job, task, name, tracebacks, failures, sys.argv, threads)
            job.__module__ = name  # the command's name in Hydra's help
            with _reported_mistakes(name, tracebacks, failures), counted_failures(failures):
                sys.argv[1:] = respelled(name, with_options_of_run(spelled_for_hydra(with_latest(sys.argv[1:]))))
                check_names(name, sys.argv[1:])
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)()
            if failures and first_of_many:
                _abort_waiting_ranks(failures[0])
            if failures:
                sys.exit(failures[0])

        return command

    return decorate


def _answered(name: str, arguments: list[str]) -> bool:
    """Whether the command asked for its help or its version, which is then printed."""
    if "--version" in arguments:
        print(f"repel {__version__}")
    elif {"-h", "--help"} & {*arguments}:
        try:
            print(help_page(name, arguments))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(MISTAKE)
    return bool({"-h", "--help", "--version"} & {*arguments})


@contextlib.contextmanager
def _reported_mistakes(name: str, tracebacks: bool, failures: list[int]) -> Iterator[None]:
    """What ends a command outside its jobs: a signal, or a mistake before the first job, which becomes one line."""
    try:
        yield
        return
    except Stopped as stopped:
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        sys.exit(Stopped(signal.SIGINT).status)
    except (HydraException, OmegaConfBaseException) as error:  # the config could not be composed
        status, message = MISTAKE, config_mistake(error, name)
    except ValueError as error:  # of check_names or the sweeper: jobs report their own
        # the sweeper misses the best of trials that all failed
        status, message = (
            explain(error, name) if type(error) is not ValueError else (MISTAKE, config_mistake(error, name))
        )
        message = "" if failures else message
    except OSError as error:  # of Hydra, which makes the folder that was typed
        status, message = MISTAKE, folders.cannot_make(error) if error.filename else one_line(error)
    except LauncherFailed as error:
        status, message = CRASHED, str(error)
    except (AssertionError, KeyError) as error:  # on keys of Hydra's own
        status, message = MISTAKE, f"the options of Hydra do not fit: {one_line(error)}; --cfg hydra shows them"
    except JobFailed:  # the sweeper ends a search with too many of them
        status, message = CRASHED, ""
    if tracebacks:
        traceback.print_exc()
    if message:
        print(f"error: {message}", file=sys.stderr)
        failures.append(status)


def _print_methods() -> None:
    outlive_readers()
    print(methods_table({group: group_options(group) for group in METHODS_IN}))


def _is_first_rank(name: str) -> bool:
    """Whether this is the first of several ranks that torchrun or srun started. Another one does its part and ends."""
    from repel.engine.external_launcher import is_external_rank, is_shell_of_srun, run_announced

    if is_shell_of_srun():
        tasks = os.environ["SLURM_STEP_NUM_TASKS"]
        print(f"error: this shell is one of {tasks} tasks that srun started, and the others run no {name}.py: "
              "unset SLURM_STEP_NUM_TASKS, or start it by srun python", file=sys.stderr)  # fmt: skip
        sys.exit(MISTAKE)
    if not is_external_rank():
        return False
    if name != "train" or "-m" in sys.argv or "--multirun" in sys.argv:
        print(f"error: torchrun and srun may start one run of train.py; start {name}.py once", file=sys.stderr)
        sys.exit(MISTAKE)
    if os.environ["RANK"] != "0":
        os._exit(run_announced())
    return True


def _abort_waiting_ranks(status: int) -> None:
    from repel.engine.external_launcher import abort_waiting_ranks

    with contextlib.suppress(Stopped):  # a signal: nobody needs to wait for
        abort_waiting_ranks(status)
    sys.stdout.flush()
    os._exit(status)  # not sys.exit: destroying the process group would hang if other ranks are gone


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
        runs.unlock(folder)
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
    if folder in runs.locked and (folder / "config.yaml").exists() and keep_traceback:
        with contextlib.suppress(OSError):  # the disk may be full
            (folder / "error.txt").write_text(without_secrets(traceback.format_exc()), encoding="utf-8")
            message += f"\nhint: the traceback is in {relative_to_cwd(folder / 'error.txt')}"
    if status == DIVERGED and folder in runs.locked:
        runs.update_environment(folder, outcome="diverged", objective=None)  # a second attempt would diverge too
    print(f"error: {message}", file=sys.stderr)
