"""Processes that start in no time: forked from a server that has imported everything once (fork_server.py).

Ranks, on the code path of engine/rank.py from there on; and commands, as `python train.py ...` from there on.
"""

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

from repel.engine import run_lock, runs
from repel.engine.configs import to_container
from repel.engine.launch import NEW, RESUME

NOTICE = 10  # seconds in which a rank notices that another one is gone
server = multiprocessing.get_context("forkserver")  # of this process, for everything that is started here


def forked(target, *args) -> multiprocessing.Process:
    """Of target(*args), forked from the server once it is started."""
    return server.Process(target=target, args=args)


def script_main(argv: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    import faults
    import torch
    from forked_ranks import fork_ranks
    from joblib.externals.loky import reusable_executor
    from joblib.externals.loky.backend import resource_tracker

    os.setsid()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ |= env
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    fork_ranks()
    if fault := env.get("REPEL_FAULT"):
        faults.arm(fault)  # here, and in the ranks
    sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
    try:
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        if reusable_executor._executor is not None:  # joblib's jobs: ended at a process's exit, which forked ones skip
            reusable_executor._executor.shutdown()
            resource_tracker._resource_tracker._stop()  # waits for its end


class Script:
    """A command that is running: `process`, and the files `out` and `err` with what it prints."""

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str]):
        self.folder = Path(tempfile.mkdtemp(prefix="command_"))
        self.out, self.err = self.folder / "out", self.folder / "err"
        self.process = forked(script_main, argv, str(cwd), env, str(self.out), str(self.err))
        self.process.start()

    def end(self, timeout: float) -> tuple[int | None, str, str]:
        """Exit status, None where the time was over, and what was printed on stdout and stderr."""
        self.process.join(timeout)
        if hung := self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        printed = [path.read_text() if path.exists() else "" for path in (self.out, self.err)]
        shutil.rmtree(self.folder)
        return (None if hung else self.process.exitcode), *printed


def rank_main(folder: str, task: str, store: str, rank: int, world: int, fault: str | None) -> None:
    """One rank's process, as start_ranks would have started it."""
    import faults
    import torch

    from repel.engine.rank import run_rank

    torch.set_num_threads(1)
    os.setsid()
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
        os.environ |= {name: str(value) for name, value in place.items()} | {"GLOO_SOCKET_IFNAME": "lo"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if fault:
        faults.arm(fault)
    os._exit(run_rank(Path(folder), task, store if world > 1 else None))


def start(folder: Path, world: int, task: str, fault: str | None = None) -> list[multiprocessing.Process]:
    meet = tempfile.mkdtemp(prefix="ranks_")
    args = [(str(folder), task, f"{meet}/store", rank, world, fault) for rank in range(world)]
    processes = [forked(rank_main, *a) for a in args]
    for process in processes:
        process.start()
    processes[0].meet = meet
    return processes


def end(processes: list[multiprocessing.Process], timeout: float = 120) -> list[int]:
    """Wait for all; their exit statuses, negative for a signal. None outlives this.

    As torch's launcher does, it ends the others when one has failed; here it gives them time to notice by themselves.
    """
    until, failed = time.monotonic() + timeout, None
    try:
        while alive := [process for process in processes if process.is_alive()]:
            wait([process.sentinel for process in alive], 0.5)
            now = time.monotonic()
            if failed is None and any(process.exitcode for process in processes):
                failed = now
            if failed is not None and now - failed > NOTICE:
                for process in alive:
                    process.terminate()  # it waits where nobody comes: they had not met yet
                    process.waited = True
            assert now < until, f"ranks that did not end: {[process.pid for process in alive]}"
    finally:
        for process in processes:
            process.kill()
            process.join()
        shutil.rmtree(processes[0].meet)
    return [process.exitcode for process in processes]


def run(cfg, folder: Path, fault: str | None = None, resume: bool = False) -> list[int]:
    """Train a config in a folder, on as many ranks as it says."""
    if not resume:
        runs.create(folder, to_container(cfg), [])
        run_lock.unlock(folder)
    for record in folder.glob("error_rank*.json"):
        record.unlink()
    statuses = end(start(folder, cfg.trainer.devices, RESUME if resume else NEW, fault))
    for record in folder.glob("error_rank*.json"):
        print(record.name, record.read_text())  # pytest shows it where a test fails
    return statuses
