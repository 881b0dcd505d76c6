"""Training batches that a thread makes ahead: the same bits as without it, and no thread is left."""

import threading

import pytest
import torch
from conftest import same
from runs_here import train

from repel.data.ahead import Awaited, MadeAhead
from repel.data.datamodule import PairData
from repel.data.loading import make_loader

SMALLER = "views.progressive={until:0.5,size:0.7}"


@pytest.fixture
def second_core(monkeypatch):
    """The tests run on one thread, where batches are not made ahead."""
    monkeypatch.setattr("repel.data.datamodule.cores_per_step", lambda: 2)


def left_over() -> list[str]:
    """Threads that do not end by themselves."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("repel-batch")]
    for thread in threads:
        thread.join(20)
    return [thread.name for thread in threads if thread.is_alive()]


@pytest.fixture
def made_in(monkeypatch):
    """The names of the threads that make batches."""
    seen, usual = [], PairData._views_of

    def noted(self, *args):
        seen.append(threading.current_thread().name)
        return usual(self, *args)

    monkeypatch.setattr(PairData, "_views_of", noted)
    return seen


@pytest.mark.usefixtures("second_core")
@pytest.mark.parametrize("options", [[SMALLER], ["views=multi_crop"], ["trainer.precision=64-true"]])
def test_weights_are_those_without_the_thread(options, tmp_path, monkeypatch, made_in):
    ahead = train(tmp_path / "ahead", *options)
    assert any(name.startswith("repel-batch") for name in made_in) == ("trainer.precision=64-true" not in options)
    assert torch.get_num_threads() == 1
    assert left_over() == []
    made_in.clear()
    monkeypatch.setattr(PairData, "_made_ahead", lambda *_: False)
    assert same(ahead, train(tmp_path / "plain", *options))
    assert set(made_in) == {threading.current_thread().name}


def test_one_batch_is_made_ahead_and_in_order():
    prepared, made = [], []

    def prepare(index):
        prepared.append(index)
        return lambda: made.append(index) or 10 * index

    loader = make_loader(Awaited(), MadeAhead(range(4), prepare), workers=0)
    batches = iter(loader)
    assert next(batches) == 0
    assert prepared == [0, 1]
    assert list(batches) == [10, 20, 30]
    assert made == prepared == [0, 1, 2, 3]
    assert left_over() == []


def test_what_is_raised_in_the_thread_comes_out_as_it_is():
    def fail():
        raise KeyError("views")

    batches = iter(make_loader(Awaited(), MadeAhead([0, 1], lambda index: fail), workers=0))
    with pytest.raises(KeyError, match="views"):
        next(batches)
    assert left_over() == []


@pytest.mark.usefixtures("second_core")
def test_a_run_that_fails_leaves_no_thread(tmp_path, monkeypatch):
    from repel.images.views.views import Views

    usual, calls = Views.apply, []

    def fail_late(self, images, params):
        calls.append(threading.current_thread().name)
        if len(calls) > 3 and calls[-1] != "MainThread":
            raise ValueError("no such view")
        return usual(self, images, params)

    monkeypatch.setattr(Views, "apply", fail_late)
    with pytest.raises(RuntimeError, match="ValueError: no such view"):
        train(tmp_path / "run")
    assert calls[-1].startswith("repel-batch")
    assert left_over() == []
    assert torch.get_num_threads() == 1
