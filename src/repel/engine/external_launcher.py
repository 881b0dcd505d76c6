"""Ranks that torchrun or srun has started: how they find each other, and the run that the first one makes.

Only the first rank reads the command line. The others wait until it announces the run folder, or that it failed. Every
wait has a limit, and looks again and again instead of waiting inside torch, where no signal would end it.
"""

import contextlib
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repel.base.cores import cores_per_rank
from repel.base.signals import Stopped
from repel.engine import targets
from repel.engine.outcomes import CRASHED, RankFailed
from repel.engine.rank import run_rank
from repel.engine.rank_links import RankLinks

if TYPE_CHECKING:
    from torch.distributed import Store

__all__ = ["abort_waiting_ranks", "announce_run", "is_external_rank", "is_shell_of_srun", "meet", "run_announced"]

RUN, FAILED = "run", "failed"  # the store's keys: the run that the first rank announces; why a rank ended
CAME, READY, LEFT = "came", "ready", "left"  # the store's counters of ranks
START = float(os.environ.get("REPEL_START_SECONDS", 300.0))  # in which all ranks must have started
DATA = 1800.0  # seconds in which all must have read the data
CONNECT = 20.0  # seconds in which a rank must have reached the first one's port for this run
GOODBYE = 10.0  # seconds that a first rank which failed stays, for the others to learn of it


def is_external_rank() -> bool:
    """Whether this process is one of several ranks that torchrun or srun has started."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "RANK" not in os.environ:
        _adopt_slurm()
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def is_shell_of_srun() -> bool:
    """Whether this process was typed in a shell that srun opened on a terminal: the step's other tasks run nothing."""
    first_task = os.environ.get("SLURM_PROCID") == "0" and "RANK" not in os.environ
    if not first_task or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))  # srun gives its tasks none, but for the first one of srun --pty
    except OSError:
        return False
    return True


def announce_run(folder: Path, task: str) -> RankLinks:
    """Called by the first rank: the others, which wait in run_announced, do their part of the task in this folder.

    Returns:
        The connections to them, to be closed when this rank's part is done.

    Raises:
        RankFailed: not all of them came.
    """
    links = RankLinks(0, folder)
    run = {"folder": str(folder.resolve()), "task": task, "allowed": targets.allowed()}
    run["links"] = links.listen(everywhere=not _on_one_machine())
    _store().set(RUN, json.dumps(run))
    _wait_for_all(CAME, _world() - 1, START, "started")
    _wait(lambda: _none_failed() and links.all_connected(_world() - 1), START, "not all ranks have connected")
    links.use_outward_interface()
    links.watch()
    return links


def abort_waiting_ranks(status: int) -> None:
    """Called by the first rank where it failed: ranks that still wait end with the same status, if they exist."""
    _leave_word(status)
    with contextlib.suppress(Exception):  # of a store that cannot be opened, or whose ranks are not there
        if not _store().check([RUN]):
            _store().set(RUN, json.dumps({"failed": status}))
            if not _agent_has_store():
                _wait_for_all(LEFT, _world() - 1, GOODBYE, "left")


def run_announced() -> int:
    """Called by every other rank: wait for the run, then do this rank's part of it. Returns the exit status."""
    try:
        store = _store()
        store.add(CAME, 1)
        _wait(lambda: store.check([RUN]), START, "the first rank announced no run")
        run = json.loads(store.get(RUN))
        if "failed" in run:
            store.add(LEFT, 1)
            return run["failed"]
        links = _connected(run)
    except RankFailed as failed:
        print(f"error: rank {os.environ['RANK']}: {failed}", file=sys.stderr)
        return failed.status
    except Stopped as stopped:
        return stopped.status
    except Exception:  # a lost connection: the first rank printed why it ended
        return CRASHED
    targets.allow(**run["allowed"])
    status = run_rank(Path(run["folder"]), run["task"], print_error=True)
    if status:
        _leave_word(status)
    links.close(status)
    return status


def _connected(run: dict[str, Any]) -> RankLinks:
    """This rank's connection to the first one, which announced this run.

    Raises:
        RankFailed: it cannot be reached.
    """
    host, port = os.environ["MASTER_ADDR"], run["links"]["port"]
    links = RankLinks(int(os.environ["RANK"]), Path(run["folder"]))
    failure = (
        f"{host} answers at port {os.environ['MASTER_PORT']}, not at port {port}: is there a firewall? gloo and NCCL "
        "choose their ports, so all must be open between the machines; no answer"
    )
    try:
        _wait(lambda: _none_failed() and links.connect(host, run["links"]), CONNECT, failure)
    except RankFailed as failed:
        _leave_word(failed.status)
        raise
    links.use_outward_interface()
    links.watch()
    return links


def meet() -> None:
    """Wait until every rank has read its data, just before they join in torch's process group.

    Raises:
        RankFailed: one has failed, or did not come.
    """
    _store().add(READY, 1)
    _wait_for_all(READY, _world(), DATA, "read the data")


def _wait_for_all(counter: str, ranks: int, seconds: float, done: str) -> None:
    store = _store()

    def all_are_there() -> bool:
        return (counter == LEFT or _none_failed()) and store.add(counter, 0) >= ranks

    _wait(all_are_there, seconds, f"not all of the {_world()} ranks that torchrun or srun was to start have {done}")


def _leave_word(status: int) -> None:
    """In the store, for ranks that wait before training: this one has ended."""
    with contextlib.suppress(Exception):  # the first rank has ended, too
        _store().set(FAILED, json.dumps({"rank": int(os.environ["RANK"]), "status": status}))


def _none_failed() -> bool:
    """True. Raises RankFailed where another rank has left word that it ended."""
    if _store().check([FAILED]):
        failed = json.loads(_store().get(FAILED))
        raise RankFailed(failed["status"], f"rank {failed['rank']} ended before training began")
    return True


def _wait(done: Callable[[], bool], seconds: float, failure: str) -> None:
    """Raises RankFailed where nothing was done in so many seconds. A signal ends the wait at once."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise RankFailed(CRASHED, f"{failure} in {seconds:.0f} seconds; end the job, and start all ranks again")
        time.sleep(0.1)


def _world() -> int:
    return int(os.environ["WORLD_SIZE"])


def _on_one_machine() -> bool:
    """Whether all ranks are here, as torchrun or srun says it."""
    return os.environ.get("LOCAL_WORLD_SIZE") == str(_world()) or os.environ.get("SLURM_STEP_NUM_NODES") == "1"


def _agent_has_store() -> bool:
    """Whether torchrun itself holds the store, and ends its ranks by itself where one fails."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


@functools.cache  # the first rank's store may be the server: it must live as long as the process
def _store() -> "Store":
    """A key-value store that all ranks reach: torch's own, at the same place, but that nobody waits in it.

    Raises:
        RankFailed: it cannot be reached.
    """
    from torch.distributed import PrefixStore, TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    server = os.environ["RANK"] == "0" and not _agent_has_store()

    def reachable() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
            return True
        return False

    if not server:
        _wait(reachable, START, f"the first rank cannot be reached at {host}:{port}")
    store = TCPStore(
        host, port, _world(), server, timeout=timedelta(seconds=START), wait_for_workers=False, multi_tenant=server
    )
    return PrefixStore("repel", store)


def _adopt_slurm() -> None:
    """srun describes a task's place in other variables than torchrun: set those of torchrun."""
    environment = os.environ  # threads first: else Lightning gives each rank all cores of the machine
    environment.setdefault("OMP_NUM_THREADS", str(cores_per_rank()))

    from lightning.fabric.plugins.environments import SLURMEnvironment

    environment["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(environment["SLURM_STEP_NODELIST"])
    environment["MASTER_PORT"] = str(15000 + int(environment["SLURM_JOB_ID"]) % 10000)  # another for each job
    environment["RANK"], environment["LOCAL_RANK"] = environment["SLURM_PROCID"], environment["SLURM_LOCALID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
