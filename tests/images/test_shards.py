"""Shards: each sample once, in an order by chunks, resumed, refused where they could run code."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from conftest import TINY, command, config, made_once, make_folder, same
from folder_runs import QUICK
from hydra.utils import instantiate
from runs_here import status, train, train_until_killed

from repel.base import seeding
from repel.data.identity import name_keys
from repel.data.sampler import GlobalBatches
from repel.data.views import slice_params
from repel.engine import checkpoint_io, runs
from repel.engine.configs import to_container
from repel.images.encoded import Encoded
from repel.images.shards import Shards, stream
from repel.images.sources import Files


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """90 pictures, of which one cannot be read, in chunks of about ten; packed by the script."""

    def make(root: Path) -> Path:
        make_folder(root / "images", ["a", "b", "c"], 30, size=(14, 12))
        (root / "images/a/000.png").write_bytes(b"")
        result = command("scripts/pack_shards.py", f"{root}/images", f"{root}/packed", "--chunk-bytes", "6KB", cwd=root)
        assert result.returncode == 0, result.stderr
        assert "skipped" in result.stderr
        assert "000.png" in result.stderr
        return root

    root = made_once(tmp_path_factory, "shards", make)
    return root / "packed", root / "images"


def read_shards(shards, shuffle_chunks: int = 2):
    return stream(str(shards[0]), 8, 3, "raise", 0, shuffle_chunks)


def test_shards_know_their_samples_as_the_folder_does(shards, tmp_path):
    """The same are held out; shards of before keys.npy know none, and do not open every record instead."""
    cfg = config(*QUICK, "data=image_folder", f"data.root={shards[1]}", "data.split_by=name", "data.in_memory=false",
                 "data.on_error=skip")  # fmt: skip
    data = instantiate(cfg.data.datamodule)
    data.setup()
    for part in ("train", "val", "test"):
        packed, kept = getattr(read_shards(shards), part).keys(), getattr(data.splits, part)
        assert set(packed.tolist()) == set(kept.keys().tolist()) - set(name_keys(["a/000.png"]).tolist())
    few = read_shards(shards).test[torch.tensor([3, 1])]
    assert few.keys().tolist() == name_keys(str(Path(name).relative_to(shards[1])) for name in few.names).tolist()
    (tmp_path / "old").mkdir()
    for path in (shards[0] / "test").iterdir():
        if path.name != "keys.npy":
            (tmp_path / "old" / path.name).symlink_to(path)
    assert Shards(str(tmp_path / "old"), 2).keys([0]) is None


def test_shards_hold_every_readable_image_once_with_its_class(shards):
    splits = read_shards(shards)
    assert splits.classes == ["a", "b", "c"]
    assert (len(splits.val), len(splits.test)) == (14, 11)  # by their names
    names = []
    for part in (splits.train, splits.val, splits.test):
        for place in range(len(part)):
            name, content = part.open(place)
            names.append(name)
            assert content == Path(name).read_bytes()  # as it was
            assert splits.classes[part.labels[place]] == Path(name).parent.name
    assert len(names) == len(set(names)) == 89
    assert len(splits.train.source.ends) > 5  # several chunks


def test_an_epoch_of_shards_has_each_sample_once_over_all_ranks(shards):
    train = read_shards(shards).train

    def epoch(number: int, rank: int, world: int):
        def order(epoch):
            return train.order(seeding.generator(3, seeding.ORDER, epoch))

        n = len(train)
        return [r.places.tolist() for r in GlobalBatches(order, n, 4, rank, world, lambda: number * (n // 4), n // 4)]

    whole = epoch(0, 0, 1)
    seen = [i for batch in whole for i in batch]
    assert len(seen) == len(set(seen)) == len(train) // 4 * 4
    assert [a + b for a, b in zip(epoch(0, 0, 2), epoch(0, 1, 2), strict=True)] == whole
    assert epoch(1, 0, 1) != whole
    assert seen != sorted(seen)


def test_the_order_of_shards_is_read_a_few_chunks_at_a_time(shards):
    source = read_shards(shards, shuffle_chunks=2).train.source
    pieces = list(source.order(torch.Generator().manual_seed(0)))
    chunk_of = np.searchsorted(source.ends, torch.cat(pieces).numpy(), side="right")
    assert len(pieces) == -(-(len(source.ends) - 1) // 2)
    start = 0
    for piece in pieces:
        assert len(set(chunk_of[start : start + len(piece)])) <= 2
        start += len(piece)
    assert sorted(torch.cat(pieces).tolist()) == list(range(len(source)))
    taken = []

    def counted(epoch):
        for piece in source.order(torch.Generator()):
            taken.append(len(piece))
            yield piece

    next(iter(GlobalBatches(counted, len(source), 4, 0, 1, lambda: 0, 10)))
    assert len(taken) == 1


@pytest.mark.slow
def test_training_on_shards_equals_training_on_the_files(shards, tmp_path):
    """The same samples in another order make other batches, but every crop is the same."""
    views = instantiate(config("views=simclr", "data=cifar10", "data.image_size=8").views)
    train = read_shards(shards).train
    places = torch.tensor([3, 40, 17])
    params = views.draw(3, torch.Generator().manual_seed(0))
    from_shards = train.crops(places, views, params)
    files = Encoded(Files("/", [train.open(i)[0] for i in places.tolist()]), None, None, 8, 3, False, 0)
    from_files = files.crops(torch.arange(3), views, slice_params(params, slice(0, 3)))
    assert all(torch.equal(a, b) for a, b in zip(from_shards.x, from_files.x, strict=True))
    assert status(tmp_path / "run", *QUICK, "data=stream", f"data.root={shards[0]}", "data.workers=2") == (0, "")


@pytest.mark.slow
def test_killed_and_resumed_on_shards_equals_never_killed(shards, tmp_path):
    """Bit for bit, with a worker that had read ahead."""
    typed = ["data=stream", f"data.root={shards[0]}", "data.workers=1", "trainer.limit_train_batches=1.0",
             "data.image_size=8", "trainer.max_epochs=2", "callbacks.last.every_n_train_steps=1",
             "callbacks.knn=null"]  # fmt: skip
    cfg, run = config(*TINY, *typed), tmp_path / "run"
    runs.create(run, to_container(cfg), [])
    process = ranks.forked(train_until_killed, str(run), 6)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(run, resume=True)
    train(tmp_path / "whole", *typed)
    torch.set_num_threads(threads)
    whole, resumed = (checkpoint_io.load(r / "checkpoints/last.ckpt") for r in (tmp_path / "whole", run))
    assert whole["global_step"] == resumed["global_step"] == 8
    assert same(resumed["state_dict"], whole["state_dict"])


def test_readers_are_opened_anew_in_each_process(shards, monkeypatch):
    source = read_shards(shards).train.source
    first = source[0]
    reader = source.reader
    assert source[0] == first
    assert source.reader is reader
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert source[0] == first
    assert source.reader is not reader


@pytest.mark.slow
def test_shards_scaled_down_when_packed(tmp_path):
    make_folder(tmp_path / "images", ["a"], 12, size=(60, 40))
    result = command("scripts/pack_shards.py", f"{tmp_path}/images", f"{tmp_path}/out", "--side", "20", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    train = stream(str(tmp_path / "out"), 8, 3, "raise", 0, 2).train
    assert [train.picture_size(i) for i in range(3)] == [(20, 30)] * 3


def test_shards_that_could_run_code_are_refused(shards, tmp_path):
    index = json.loads((shards[0] / "train/index.json").read_text())
    index["config"]["types"]["image"] = "pickle"
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="pickle"):
        Shards(str(tmp_path), 2)
    with pytest.raises(ValueError, match="pack-shards"):
        Shards(str(tmp_path / "none"), 2)
    with pytest.raises(ValueError, match="shuffle_chunks"):
        stream(str(shards[0]), 8, 3, "raise", 0, 0)


def test_without_litdata_the_extra_is_named(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ValueError, match=r"\[stream\]"):
        read_shards(shards)
