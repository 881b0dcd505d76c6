"""Training batches that a thread makes ahead: the same bits as without it, and no thread is left."""

import threading

import pytest
import torch
from conftest import config, same
from hydra.utils import instantiate
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
@pytest.mark.parametrize("options", [[SMALLER, "views=multi_crop"], ["trainer.precision=64-true"]])
def test_weights_are_those_without_the_thread(options, tmp_path, monkeypatch, made_in):
    ahead = train(tmp_path / "ahead", *options)
    assert any(name.startswith("repel-batch") for name in made_in) == ("trainer.precision=64-true" not in options)
    assert torch.get_num_threads() == 1
    assert left_over() == []
    made_in.clear()
    monkeypatch.setattr(PairData, "_made_ahead", lambda *_: False)
    assert same(ahead, train(tmp_path / "plain", *options))
    assert set(made_in) == {threading.current_thread().name}


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_two_batches_are_made_ahead_and_come_in_order(steps):
    prepared = []

    def prepare(index):
        prepared.append((index, threading.current_thread().name))
        return lambda: (10 * index, threading.current_thread().name)

    batches = iter(make_loader(Awaited(), MadeAhead(range(steps), prepare), workers=0))
    came = [next(batches)] if steps else []
    assert prepared == [(index, "MainThread") for index in range(min(3, steps))]
    came += batches
    assert [value for value, _ in came] == [10 * index for index in range(steps)]
    assert all(name.startswith("repel-batch") for _, name in came)
    assert len(prepared) == steps
    assert left_over() == []


@pytest.mark.parametrize("options", [
    [SMALLER], ["data=cifar10", "views=simclr"], ["data=cifar10", "views=byol", "views.color=fused"],
])  # fmt: skip
def test_views_are_the_same_bits_on_one_core_and_on_several(options):
    views = instantiate(config(*options).views).at(0.0)
    channels = len(views.augmentations[0].normalize.mean)
    images = torch.randint(0, 256, (64, channels, 28, 28), dtype=torch.uint8)  # more than one core's share
    params = views.draw(64, torch.Generator().manual_seed(1))
    one = views.apply(images, params)
    torch.set_num_threads(2)
    several = views.apply(images, params)
    torch.set_num_threads(1)
    assert torch.equal(one, several)


def test_other_threads_have_as_many_cores_as_before():
    torch.set_num_threads(2)
    cores, loader = [], make_loader(Awaited(), MadeAhead(range(3), lambda _: torch.get_num_threads), workers=0)
    assert list(loader) == [1, 1, 1]
    later = threading.Thread(target=lambda: cores.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [*cores, torch.get_num_threads()] == [2, 2]
    torch.set_num_threads(1)


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
