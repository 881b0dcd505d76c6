"""Ranks that others have started: which is one, and what the first tells the rest."""

import json

import pytest
import torch.distributed as dist

from repel.engine import external_launcher as external
from repel.engine import targets
from repel.engine.outcomes import CRASHED


@pytest.fixture
def store(monkeypatch):
    made = dist.HashStore()
    monkeypatch.setattr(external, "_store", lambda: made)
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


def test_an_announced_run_is_run_with_what_it_may_name(store, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "_names", {"mine.Part"})
    external.announce_run(tmp_path, "repel.engine.fit:fit_new")
    monkeypatch.setattr(targets, "_names", set())
    done = []
    monkeypatch.setattr(external, "run_rank", lambda *args, **kwargs: done.append((args, kwargs)) or 3)
    assert external.run_announced() == 3
    assert done == [((tmp_path, "repel.engine.fit:fit_new"), {"print_error": True})]
    assert targets._names == {"mine.Part"}
    external.abort_waiting_ranks(2)  # none waits any more: what was announced stays
    assert "failed" not in json.loads(store.get(external.RUN))


def test_ranks_end_where_the_first_failed(store, monkeypatch):
    external.abort_waiting_ranks(2)
    assert external.run_announced() == 2
    monkeypatch.setattr(external, "_store", lambda: 1 / 0)  # the connection is lost
    assert external.run_announced() == CRASHED
