"""Splits, and the counted order of samples."""

import itertools
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from repel.base import seeding
from repel.base.signals import SIGNALS
from repel.data.datamodule import PairData
from repel.data.loading import make_loader
from repel.data.sampler import GlobalBatches, ValidationBatches
from repel.data.samples import Splits
from repel.data.splits import held_out
from repel.images.memory import Images


def test_workers_of_a_fork_server_do_not_import_torch_each(monkeypatch):
    """From Python 3.14 on they are started so, for every pass over a split."""
    preloaded = []
    monkeypatch.setattr("multiprocessing.set_forkserver_preload", preloaded.append)
    dataset = type("Dataset_", (Dataset,), {"__module__": "repel.images.encoded"})()
    make_loader(dataset, [0], workers=2)  # they are forked here
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "forkserver")
    make_loader(dataset, [0], workers=0)
    assert preloaded == []
    make_loader(dataset, [0], workers=2)
    assert preloaded == [["__main__", "repel.images.encoded", "torch"]]


def test_held_out_parts_are_balanced_disjoint_and_the_same_for_every_run():
    pixels = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1)
    splits = Splits(Images(pixels, torch.arange(200) % 4))
    made = [held_out(splits, 0.1, 0.2, seed=0) for _ in range(2)]
    parts = [part.pixels.flatten().tolist() for part in (made[0].train, made[0].val, made[0].test)]
    assert list(map(len, parts)) == [144, 16, 40]
    assert sorted(itertools.chain(*parts)) == list(range(200))
    assert made[0].val.labels.bincount().tolist() == [4] * 4
    assert torch.equal(made[0].val.pixels, made[1].val.pixels)
    assert not torch.equal(made[0].val.pixels, held_out(splits, 0.1, 0.2, seed=1).val.pixels)


def test_small_classes_and_no_labels_still_give_a_fair_validation_set():
    pixels = torch.zeros(9, 1, 1, 1, dtype=torch.uint8)
    for labels in (torch.arange(9), None):
        splits = held_out(Splits(Images(pixels, labels)), 0.1, 0.1, seed=0)
        assert (len(splits.train), len(splits.val), len(splits.test)) == (7, 1, 1)
    labels = torch.cat([torch.arange(100).repeat_interleave(4), torch.full((20,), 100)])  # a long tail
    splits = held_out(Splits(Images(torch.zeros(420, 1, 1, 1, dtype=torch.uint8), labels)), 0.1, 0.1, seed=0)
    assert len(splits.test.labels) == 42
    assert len(splits.test.labels.unique()) > 35


def batches(rank=0, world=1, seed=7, seen=0, n=23, size=4, pieces=23):
    def order(epoch):
        yield from torch.randperm(n, generator=seeding.generator(seed, seeding.ORDER, epoch)).split(pieces)

    sampler = GlobalBatches(order, n, size, rank, world, lambda: seen, n // size)
    return [indices.places.tolist() for indices in sampler]


def test_order_is_a_function_of_seed_and_epoch():
    epochs = [batches(seen=5 * e) for e in range(3)]
    assert epochs[0] == batches()
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches(seed=8) != batches()
    for epoch in epochs:
        seen = list(itertools.chain(*epoch))
        assert len(epoch) == 5
        assert len(set(seen)) == 20


def test_ranks_share_out_the_same_global_batches():
    whole = batches()
    assert [a + b for a, b in zip(batches(0, 2), batches(1, 2), strict=True)] == whole


def test_an_epoch_goes_on_where_it_was_left():
    assert batches(seen=5 + 2) == batches(seen=5)[2:]


def test_the_order_may_come_in_pieces():
    assert batches(pieces=3) == batches(pieces=7) == batches()
    assert batches(pieces=3, seen=5 + 2) == batches(seen=5)[2:]


def validation_batches(n, size, rank=0, world=1):
    places = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return [batch.places.tolist() for batch in ValidationBatches(places, size, rank, world)]


@pytest.mark.parametrize(("n", "size"), [(600, 128), (23, 4), (7, 16), (17, 16), (9, 4), (8, 4), (3, 2), (7, 2)])
def test_validation_takes_every_sample_once_in_batches_of_equal_size(n, size):
    whole = validation_batches(n, size)
    assert sorted(itertools.chain(*whole)) == list(range(n))
    sizes = {len(batch) for batch in whole}
    assert max(sizes) - min(sizes) <= 1
    assert len(whole) == max(1, min(round(n / size), n // 2))
    assert min(sizes) > 1  # one image alone has nothing to be compared with
    for world in (w for w in (2, 4) if 2 * w <= n):
        parts = [validation_batches(n, size, rank, world) for rank in range(world)]
        assert all(piece for part in parts for piece in part)
        if size >= 2 * world:
            assert [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)] == whole


class Sorted(Images):
    """Shuffled in windows of one sample, as a set in shards is in windows of a few chunks."""

    def order(self, generator):
        yield torch.arange(len(self))


def validation_of(labels, kind=Images, **options) -> list[list[int]]:
    """The labels of each validation batch of a datamodule."""
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    train, val = Images(pixels[:20], torch.zeros(20, dtype=torch.int64)), kind(pixels, labels)
    data = PairData(
        lambda: Splits(train, train, val), 16, 0.1, 0.1, tasks={}, labels=None, device_cache=False, views=None,
        normalize=None, **{"split_seed": 0, "seed": 1, **options},
    )  # fmt: skip
    device = torch.device("cpu")
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=device))
    data.setup()
    return [labels[batch.places].tolist() for batch in data.val_dataloader().sampler]


def test_validation_does_not_follow_the_order_of_the_data():
    """Sorted by class, an anchor's negatives would all be of its class."""
    by_class = torch.arange(4).repeat_interleave(16)
    batches = validation_of(by_class)
    assert all(set(batch) == {0, 1, 2, 3} for batch in batches)
    assert batches == validation_of(by_class) == validation_of(by_class, seed=2)  # of every run on this data
    assert batches == validation_of(by_class, kind=Sorted)  # read in shards, too
    assert batches != validation_of(by_class, split_seed=1)


class Ignored(Dataset):
    """Whether the process that is asked ignores each of the signals."""

    def __getitem__(self, place: int) -> list[bool]:
        return [signal.getsignal(number) == signal.SIG_IGN for number in SIGNALS]


def test_workers_ignore_the_signals_that_their_parent_handles():
    assert list(make_loader(Ignored(), [0], workers=1)) == [[True] * 3]
    assert Ignored()[0] != [True] * 3
