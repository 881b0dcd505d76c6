"""Ranks that others have started: which is one, and what the first tells the rest."""

import json
import os
import signal
import socket
from typing import ClassVar

import pytest
import torch.distributed as dist

from repel.base.signals import Stopped
from repel.engine import external_launcher as external
from repel.engine import targets
from repel.engine.outcomes import CRASHED, MISTAKE, RankFailed


class _Links:
    """Connections that are there at once; tests/engine/test_rank_links.py has the real ones."""

    statuses: ClassVar[list[int]] = []
    reached = True

    def __init__(self, rank, folder):
        self.rank = rank

    def listen(self, everywhere):
        return {"port": 4711, "token": ""}

    def all_connected(self, others):
        return True

    def connect(self, host, place):
        return self.reached

    def use_outward_interface(self):
        pass

    watch = use_outward_interface

    def close(self, status):
        self.statuses.append(status)


@pytest.fixture
def store(monkeypatch):
    made = dist.HashStore()
    monkeypatch.setattr(external, "RankLinks", _Links)
    monkeypatch.setattr(_Links, "statuses", [])
    monkeypatch.setenv("MASTER_ADDR", "machine1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(external, "_store", lambda: made)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    return made


@pytest.mark.parametrize(
    ("environment", "several"),
    [({}, False), ({"RANK": "0", "WORLD_SIZE": "1"}, False), ({"RANK": "1", "WORLD_SIZE": "2"}, True),
     ({"WORLD_SIZE": "2"}, False), ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False)],
)  # fmt: skip
def test_which_process_is_one_of_several_ranks(monkeypatch, environment, several):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert external.is_external_rank() is several


def test_a_task_of_srun_is_a_rank_with_its_own_cores(monkeypatch):
    """Also where srun was given no -c, and nothing binds its tasks to cores."""
    job = {"JOB_ID": "20007", "STEP_NUM_TASKS": "3", "STEP_TASKS_PER_NODE": "2,1", "STEP_NODELIST": "n[1-2]"}
    task = {"CPUS_ON_NODE": "2", "NODEID": "0", "PROCID": "1", "LOCALID": "1"}
    monkeypatch.setattr(os, "environ", {f"SLURM_{name}": value for name, value in (job | task).items()})
    assert external.is_external_rank()
    expected = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "n1", "MASTER_PORT": "15007"}
    assert os.environ.items() >= {**expected, "OMP_NUM_THREADS": "1"}.items()


def test_an_announced_run_is_run_with_what_it_may_name(store, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "_names", {"mine.Part"})
    store.add(external.CAME, 3)
    external.announce_run(tmp_path, "repel.engine.fit:fit_new")
    monkeypatch.setattr(targets, "_names", set())
    done = []
    monkeypatch.setattr(external, "run_rank", lambda *args, **kwargs: done.append((args, kwargs)) or 3)
    assert external.run_announced() == 3
    assert _Links.statuses == [3]  # the first rank hears of it
    assert done == [((tmp_path, "repel.engine.fit:fit_new"), {"print_error": True})]
    assert targets._names == {"mine.Part"}
    external.abort_waiting_ranks(2)  # none waits any more: what was announced stays
    assert "failed" not in json.loads(store.get(external.RUN))


def test_ranks_end_where_the_first_failed(store, monkeypatch):
    store.add(external.LEFT, 3)  # it waits for them to learn of it
    external.abort_waiting_ranks(2)
    assert external.run_announced() == 2
    monkeypatch.setattr(external, "_store", lambda: 1 / 0)  # the connection is lost
    assert external.run_announced() == CRASHED


@pytest.fixture
def clock(monkeypatch):
    """Waiting takes no time: each look is a second later."""
    now = iter(range(100_000))
    monkeypatch.setattr(external.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(external.time, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("store", "clock")
def test_no_rank_waits_for_ever(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert external.run_announced() == CRASHED
    assert capsys.readouterr().err.startswith("error: rank 2: the first rank announced no run in 300 seconds")
    with pytest.raises(RankFailed, match=r"not all of the 4 ranks .* have started in 300 seconds"):
        external.announce_run(tmp_path, "repel.engine.fit:fit_new")
    with pytest.raises(RankFailed, match=r"not all of the 4 ranks .* have read the data in 1800 seconds"):
        external.meet()


@pytest.mark.usefixtures("clock")
def test_a_firewall_that_lets_only_the_meeting_place_pass_is_named(store, tmp_path, monkeypatch, capsys):
    store.add(external.CAME, 3)
    external.announce_run(tmp_path, "repel.engine.fit:fit_new")
    monkeypatch.setattr(_Links, "reached", False)
    monkeypatch.setenv("RANK", "2")
    assert external.run_announced() == CRASHED
    line = capsys.readouterr().err
    assert line.startswith("error: rank 2: machine1 answers at port 29500, not at port 4711: is there a firewall?")
    assert line.count("\n") == 1
    with pytest.raises(RankFailed, match="rank 2 ended before training began"):  # what the first rank says meanwhile
        external.announce_run(tmp_path, "repel.engine.fit:fit_new")


@pytest.mark.usefixtures("clock")
def test_a_first_rank_that_failed_waits_for_nobody(store, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    external.abort_waiting_ranks(2)
    assert external.time.monotonic() < 20
    assert json.loads(store.get(external.RUN)) == {"failed": 2}


def test_ranks_learn_of_one_that_failed_while_it_read_the_data(store, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    store.add(external.CAME, 3)
    external.announce_run(tmp_path, "repel.engine.fit:fit_new")
    monkeypatch.setattr(external, "run_rank", lambda *args, **kwargs: 2)
    assert external.run_announced() == 2
    with pytest.raises(RankFailed, match="rank 3 ended before training began") as ended:
        external.meet()
    assert ended.value.status == 2


def test_all_that_came_go_on(store, tmp_path):
    store.add(external.CAME, 3)
    external.announce_run(tmp_path, "repel.engine.fit:fit_new")
    store.add(external.READY, 3)
    external.meet()


@pytest.mark.usefixtures("store")
def test_a_signal_ends_a_rank_that_waits(monkeypatch):
    def sleep(seconds):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(external.time, "sleep", sleep)
    assert external.run_announced() == 143


@pytest.mark.parametrize("terminal", [True, False])
def test_a_shell_that_srun_opened_is_no_rank(monkeypatch, capsys, terminal):
    """srun -n 4 --pty bash, and then python: no one else will come."""
    from repel.cli.main import embed

    for name, value in {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("repel.cli.command.raise_on_signal", lambda: None)
    usual = os.open
    place = os.devnull if terminal else "/nowhere/tty"
    monkeypatch.setattr(os, "open", lambda path, *rest: usual(place if path == "/dev/tty" else path, *rest))
    assert external.is_shell_of_srun() is terminal
    if terminal:
        with pytest.raises(SystemExit) as ended:
            embed()
        assert ended.value.code == MISTAKE
        assert "unset SLURM_STEP_NUM_TASKS, or start it by srun" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not external.is_shell_of_srun()


def test_a_store_at_an_address_that_nobody_serves(monkeypatch, clock):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "RANK": "1", "WORLD_SIZE": "2"}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RankFailed, match=r"cannot be reached at 127\.0\.0\.1:\d+ in 300 seconds"):
            external._store.__wrapped__()
