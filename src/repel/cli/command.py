"""The commands: run folders, one-line errors, exit statuses.

With config.py, mistakes.py, sweeps.py and study.py, all that knows of Hydra. Nothing here imports torch or lightning at
the top, so that a mistake is answered at once.
"""

import contextlib
import functools
import math
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel.base.signals import SIGNALS, Stopped, stop_at_once
from repel.cli import optuna_study as study
from repel.cli import slurm, sweeps
from repel.cli.checks import CONF, as_typed, check, check_names, chosen_sweeper, config_mistake, one_line, plain
from repel.engine import runs
from repel.engine.build import saved
from repel.engine.redact import without_secrets

CRASHED, MISTAKE, DIVERGED = 1, 2, 3  # exit statuses; 0: done; 130 and 143: stopped by a signal


def run_folder(resume: str | None, new: str) -> str:
    """Where a run lies: the folder that resume names, or where a requeued SLURM job began it, or a new one."""
    return str(runs.find(resume)) if resume else slurm.begun_before(Path(new).parent) or new


def job_folder(resume: str | None, sweep: str, number: int, overrides: ListConfig) -> str:
    return sweeps.job_folder(resume, sweep, number, as_typed(overrides))


for resolver in (run_folder, sweeps.sweep_folder, job_folder, study.trials_left, study.sampler_seed):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
OmegaConf.register_new_resolver("given", lambda value, otherwise: otherwise if value is None else value, replace=True)


def entry_point(name: str) -> Callable:
    """Decorate `task(cfg, folder)` into a command: conf/<name>.yaml, run folders, one-line errors, exit statuses.

    The decorated function takes no arguments. `task` gets the composed config and its run folder, and returns the
    number that a sweep optimises, or None.
    """

    def decorate(task: Callable[[DictConfig, Path], float | None]) -> Callable[[], None]:
        def command() -> None:
            stop_at_once()
            if outside := "RANK" in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ:
                outside = take_place(name)
            tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on, for us to word
            failures: list[int] = []
            job = functools.wraps(task)(functools.partial(run_job, task, name, tracebacks, failures))
            try:
                check_names(name, sys.argv[1:])
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)()
            except Stopped as stopped:
                sys.exit(stopped.status)
            except KeyboardInterrupt:
                sys.exit(Stopped(signal.SIGINT).status)
            except BrokenPipeError:  # of --help | head
                os._exit(CRASHED)
            except (HydraException, OmegaConfBaseException) as error:  # the config could not be composed
                if tracebacks:
                    traceback.print_exc()
                print(f"error: {config_mistake(error, name)}", file=sys.stderr)
                failures.append(MISTAKE)
            except ValueError as error:  # a name's or the sweeper's: jobs have words for their own
                if tracebacks:
                    traceback.print_exc()
                if not failures:  # else it misses the best of trials that all failed
                    print(f"error: {one_line(error)}", file=sys.stderr)
                    failures.append(MISTAKE)
            if failures and outside:
                dismiss(failures[0])
            if failures:
                sys.exit(failures[0])

        return command

    return decorate


def take_place(name: str) -> bool:
    """Whether this is the first of several ranks from outside; another one does its part here, and ends."""
    from repel.engine.launch import from_outside, join

    if not from_outside():
        return False
    if name != "train" or "-m" in sys.argv or "--multirun" in sys.argv:
        print(f"error: torchrun and srun may start one run of train.py; start {name}.py once", file=sys.stderr)
        sys.exit(MISTAKE)
    if os.environ["RANK"] != "0":
        os._exit(join())
    return True


def dismiss(status: int) -> None:
    """The first rank's end where it failed: those that still wait for its word are sent away."""
    from repel.engine.launch import kept, tell

    if not kept:
        tell({"failed": status})
    sys.stdout.flush()
    os._exit(status)  # not sys.exit: the other ranks may never answer the farewell of the process group


def run_job(task: Callable, name: str, tracebacks: bool, failures: list[int], cfg: DictConfig) -> float | None:
    """One job: check its config, run it; on failure say why in a line and keep the traceback in error.txt.

    A failed job appends its exit status to failures and returns NaN, so that a sweep goes on with the next.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        check(cfg, name)
        result = task(cfg, folder)
        print(f"run: {relative(folder)}", flush=True)
        return result
    except (KeyboardInterrupt, Stopped) as stop:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # another one would cut off the line that says how to go on
        last = folder / "checkpoints" / "last.ckpt"
        hint = f"go on with: python {name}.py resume={relative(folder)}" if last.exists() else "no checkpoint yet"
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            hint = f"the same command with sweep.resume={relative(folder.parent)} runs what is missing"
        print(f"{str(stop) or 'interrupted'}; {hint}", file=sys.stderr)
        raise
    except Exception as error:
        status, message = explain(error, name)
        failures.append(status)
        if tracebacks:
            traceback.print_exc()
        if status == MISTAKE:
            runs.discard(folder)  # where nothing ran, leave nothing behind
        if folder in runs.held and (folder / "config.yaml").exists() and not (status == MISTAKE and cfg.get("resume")):
            with contextlib.suppress(OSError):  # the disk may be full
                (folder / "error.txt").write_text(without_secrets(traceback.format_exc()))
                message += f"\nhint: the traceback is in {relative(folder / 'error.txt')}"
        if status == DIVERGED and folder in runs.held:
            runs.note(folder, outcome="diverged", objective=None)  # it would again
        print(f"error: {message}", file=sys.stderr)
        if HydraConfig.get().mode == RunMode.MULTIRUN and chosen_sweeper() == "optuna":
            raise  # Optuna takes no NaN: this is how its plugin is told of a failed trial
    finally:
        runs.release(folder)
    return math.nan


def explain(error: Exception, name: str) -> tuple[int, str]:
    """Exit status and one line for what ended a job."""
    if isinstance(error, InstantiationException):
        return MISTAKE, one_line(error.__cause__ if isinstance(error.__cause__, ValueError) else error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return MISTAKE, config_mistake(error, name)
    # by name: importing their modules here would import torch
    if isinstance(error, ValueError) or type(error).__name__ in ("MisconfigurationException", "UnreadableSample"):
        return MISTAKE, one_line(error)
    if type(error).__name__ == "Diverged":
        return DIVERGED, one_line(error)
    return CRASHED, f"{type(error).__name__}: {one_line(error)}"


def relative(path: Path) -> Path:
    """As the user would type it: below the working directory without its prefix."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def claim(cfg: DictConfig, folder: Path) -> None:
    """Begin the folder of a command that writes files to take away.

    Raises:
        ValueError: there is something in it.
    """
    if any(folder.iterdir()):
        raise ValueError(f"out={relative(folder)} is not empty; name another folder")
    runs.claim(folder, plain(cfg), as_typed())


def start(cfg: DictConfig, folder: Path) -> tuple[DictConfig, str]:
    """The config to run with: a new run's is written into its folder, a resumed run's is read from there.

    Returns:
        It, and sweeps.NEW, RESUME (from the last checkpoint) or FINISHED (before; there is nothing to do).

    Raises:
        ValueError: the folder is taken, or options were given beside resume=.
    """
    overrides = as_typed()
    if (cfg.sweep.resume is not None or (slurm.requeued() and cfg.resume is None)) and runs.begun(folder):
        state = sweeps.take_up(folder, plain(cfg), overrides)
        if state == sweeps.NEW:
            return cfg, state
        done = f"{runs.read_environment(folder)['outcome']} already" if state == sweeps.FINISHED else "goes on"
        print(f"{done}: {relative(folder)}", flush=True)
        return saved(runs.read_config(folder)), state
    if cfg.resume is None:
        runs.claim(folder, plain(cfg), overrides)
        slurm.remember(folder if HydraConfig.get().mode == RunMode.RUN else folder.parent)
        return cfg, sweeps.NEW
    if others := [o for o in overrides if not o.startswith("resume=")]:
        raise ValueError(f"resume= goes on with the run's own config; leave out {' '.join(others)}, or start a new run")
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise ValueError(f"resume={cfg.resume}: no checkpoint was written yet; start the run again")
    runs.hold(folder)
    if (chosen := Path(cfg.resume).expanduser().resolve()) not in (folder, last):
        go_back(chosen, last)
    return saved(runs.read_config(folder)), sweeps.RESUME


def go_back(chosen: Path, last: Path) -> None:
    """Put another of the run's checkpoints into the last one's place."""
    from repel.engine import checkpoints

    checkpoints.load(chosen)  # that it is one
    copy = last.with_name(f".{last.name}.tmp")
    shutil.copyfile(chosen, copy)
    os.replace(copy, last)
