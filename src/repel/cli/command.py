"""The commands: their arguments, one-line errors, exit statuses; job.py runs what they ask for.

This package alone knows of Hydra's command line. Nothing here imports torch or lightning at the top, so that a mistake
is reported at once.
"""

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from repel import __version__
from repel.base.encoding import restart_in_utf8_mode
from repel.base.signals import Stopped, raise_on_signal
from repel.base.terminal import outlive_readers
from repel.cli import folders
from repel.cli.arguments import spelled_for_hydra
from repel.cli.baseline import group_options
from repel.cli.going_on import with_options_of_run
from repel.cli.help import help_page
from repel.cli.hydra_errors import config_mistake, explain
from repel.cli.job import run_job
from repel.cli.latest import with_latest
from repel.cli.launchers import JobFailed, LauncherFailed, counted_failures
from repel.cli.methods import METHODS_IN, methods_table
from repel.cli.names import check_names, respelled
from repel.engine.configs import CONF
from repel.engine.outcomes import CRASHED, MISTAKE, one_line

__all__ = ["entry_point"]


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
