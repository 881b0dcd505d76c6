"""A command's ranks, and torchrun's, are forked from it, rather than Pythons that import everything again.

The rest is torch's launcher: it watches them, and ends all when one fails. Ranks that start as a user's do are in
tests/commands/test_several_devices.py and test_wheel.py; torchrun's and srun's by `make two-machines`, `make slurm`.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path

from joblib.externals.loky.backend import context as loky
from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler


class ForkedRank(multiprocessing.get_context("fork").Process):
    """What the launcher needs of subprocess.Popen."""

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float) -> None:
        self.join(timeout)


def rank_main(command: tuple[str, ...], environment: dict[str, str]) -> None:
    """`python -P -m repel.engine.rank JOB` or `python -u train.py ...`, in a session of its own."""
    import torch

    from repel.engine import rank

    os.setsid()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        if callable(signal.getsignal(number)):  # else it is ignored, here as after an exec
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ |= environment
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if command[:3] == ("-P", "-m", "repel.engine.rank"):
        sys.argv = [rank.__file__, *command[3:]]
        del sys.path[0]  # the command's folder
        rank.main()
    assert command[0] == "-u", command
    sys.argv, sys.path[0] = list(command[1:]), str(Path(command[1]).parent)
    runpy.run_path(command[1], run_name="__main__")


def fork_ranks() -> None:
    """From here on, in this process; joblib's jobs too."""

    def start(handler: SubprocessHandler, command: tuple[str, ...], environment: dict[str, str]) -> ForkedRank:
        assert command[0] == sys.executable
        process = ForkedRank(target=rank_main, args=(command[1:], environment))
        process.start()
        return process

    SubprocessHandler._popen = start
    loky.set_start_method("fork", force=True)
