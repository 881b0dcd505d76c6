"""Images that are decoded batch by batch: the same batches with workers, ranks and after a resume."""

from pathlib import Path

import pytest
import torch
from conftest import config, make_folder
from folder_runs import QUICK
from hostile import picture
from hydra.utils import instantiate
from runs_here import status

from repel.base import seeding
from repel.data.loading import BatchFetch
from repel.data.sampler import BatchIndices
from repel.data.samples import UnreadableSample
from repel.engine import run_lock
from repel.engine.build import build_module, build_trainer
from repel.engine.outcomes import MISTAKE, explain
from repel.images import folder
from repel.images.encoded import Encoded
from repel.images.sources import Source, worker_count


class Count(Source):
    """Pictures made up, of which some are broken; counts what is opened."""

    def __init__(self, n: int, broken: set[int] = frozenset()):
        self.files = [b"" if i in broken else to_png(i) for i in range(n)]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return f"file {index}", self.files[index]


def to_png(seed: int) -> bytes:
    from hostile import encoded

    return encoded(picture(seed, (20, 16)), "PNG")


def of(source: Source, skip: bool = False) -> Encoded:
    return Encoded(source, torch.arange(len(source)), None, 8, 3, skip, 0)


def test_broken_images_are_replaced_so_that_batches_keep_their_size():
    views = instantiate(config("views=simclr", "data=cifar10", "data.image_size=8").views)
    params = views.draw(4, torch.Generator().manual_seed(0))
    images = of(Count(6, {1, 2, 5}), skip=True)
    read = images.crops(torch.tensor([0, 1, 5, 3]), views, params)
    assert read.places.tolist() == [0, 3, 0, 3]  # the next that can be read
    assert [line.split(":")[0] for line in read.skipped] == ["file 1", "file 2", "file 5"]
    assert [c.shape for c in read.x] == [(4, 3, 8, 8)] * 2
    batch = BatchFetch(images, views, 0, seeding.VIEWS)[BatchIndices(0, 0, torch.tensor([1, 3]), slice(0, 2), 2)]
    assert batch.labels.tolist() == batch.indices.places.tolist() == [3, 3]  # its id and label go with it
    with pytest.raises(UnreadableSample, match=r"file 1 .*data\.on_error=skip"):
        of(Count(6, {1})).crops(torch.tensor([1]), views, params)
    with pytest.raises(UnreadableSample, match="none of the 3"):
        of(Count(3, {0, 1, 2}), skip=True).crops(torch.tensor([1]), views, params)
    pixels, good = next(of(Count(6, {1, 2, 5}), skip=True).plain([torch.arange(6)]))
    assert good.tolist() == [True, False, False, True, True, False]
    assert (pixels[~good] == 0).all()


def test_evaluation_leaves_broken_images_out():
    from repel.evaluation.features import encode, subset
    from repel.images.modality import raw_pixels

    images = of(Count(7, {1, 5}), skip=True)
    features, places = encode(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), images,
                              lambda x: x.float(), torch.device("cpu"))  # fmt: skip
    assert places.tolist() == raw_pixels(images)[1].tolist() == [0, 2, 3, 4, 6]
    assert len(features) == 5
    assert subset(images, 3).labels.tolist() == [0, 2, 4]
    assert subset(images, None) is subset(images, 7) is images


def test_parts_of_a_set_are_its_images():
    images = of(Count(6))
    half = images[torch.tensor([5, 0, 3])]
    assert [half.open(i)[0] for i in range(3)] == ["file 5", "file 0", "file 3"]
    assert [half[torch.tensor([False, True, True])].open(i)[0] for i in range(2)] == ["file 0", "file 3"]
    assert half.labels.tolist() == [5, 0, 3]
    assert sorted(torch.cat(list(half.order(torch.Generator()))).tolist()) == [0, 1, 2]


def folder_data(root: Path, *changes: str, position: int = 0, rank: int = 0, world: int = 1):
    """A datamodule beside a trainer that is one rank's, as far as data looks at it."""
    cfg = config(*QUICK, "data=image_folder", f"data.root={root}", "data.in_memory=false", *changes)
    data = instantiate(cfg.data.datamodule)

    class Trainer:
        global_rank, world_size, limit_train_batches, training, default_root_dir = rank, world, 1.0, True, str(root)
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})
        lightning_module = torch.nn.Linear(1, 1)

        class fit_loop:
            class epoch_loop:
                batch_progress = type("P", (), {"total": type("T", (), {"processed": position})})

    data.trainer = Trainer()
    data.setup()
    return data


def pairs(data) -> list:
    device = torch.device("cpu")
    return [
        data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)
        for batch in data.train_dataloader()
    ]


def equal(a, b) -> bool:
    return torch.equal(a.views, b.views) and torch.equal(a.ids, b.ids) and torch.equal(a.labels, b.labels)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("small"), ["a", "b"], 40, size=(30, 24))


def test_workers_ranks_and_resuming_see_the_same_batches(small_folder):
    whole = pairs(folder_data(small_folder, "data.workers=0"))
    assert len(whole) == 4
    for one, other in zip(whole, pairs(folder_data(small_folder, "data.workers=2")), strict=True):
        assert equal(one, other)
    for one, other in zip(whole[1:], pairs(folder_data(small_folder, "data.workers=1", position=1)), strict=True):
        assert equal(one, other)
    shares = [pairs(folder_data(small_folder, "data.workers=0", rank=rank, world=2)) for rank in (0, 1)]
    for one, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(one.ids, torch.cat([first.ids, second.ids], 1))
        torch.testing.assert_close(one.views, torch.cat([first.views, second.views], 1), atol=1e-5, rtol=1e-5)
    again = pairs(folder_data(small_folder, "data.workers=0", position=4))
    assert not equal(again[0], whole[0])  # the next epoch


@pytest.mark.parametrize("extra", [["data.in_memory=true"], ["data.in_memory=true", "data.device_cache=true"]])
def test_the_device_may_hold_the_images(small_folder, extra):
    held = pairs(folder_data(small_folder, "data.in_memory=true", "data.device_cache=false"))
    data = folder_data(small_folder, *extra)
    for one, other in zip(held, pairs(data), strict=True):
        assert equal(one, other)
    assert (data.cache is not None) is ("data.device_cache=true" in extra)  # auto: not on a CPU


def test_what_is_held_in_memory_follows_the_size(small_folder):
    read = lambda size, choice: folder.image_folder(str(small_folder), size, 3, "raise", choice, 0, "splits").train  # noqa: E731
    assert not isinstance(read(folder.SMALL, "auto"), Encoded)
    assert isinstance(read(folder.SMALL + 1, "auto"), Encoded)
    assert isinstance(read(8, False), Encoded)


def test_imagenets_validation_images_are_the_test_split(tmp_path):
    for part, each in (("train", 30), ("val", 4)):
        make_folder(tmp_path / part, ["n1", "n2"], each)
    cfg = config(*QUICK, "data=imagenet", f"data.root={tmp_path}", "data.image_size=8", "data.split_by=place")
    data = instantiate(cfg.data.datamodule)
    data.setup()
    assert [len(part) for part in (data.splits.train, data.splits.val, data.splits.test)] == [54, 6, 8]


@pytest.mark.parametrize("workers", [-1, 1.5, "many"])
def test_workers_are_checked(workers):
    with pytest.raises(ValueError, match=r"data\.workers"):
        worker_count(workers)


def test_cores_are_shared_out_among_ranks(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert worker_count("auto") == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count("auto") == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert worker_count("auto") == 1


def test_a_broken_test_image_is_found_before_training(tmp_path, monkeypatch):
    """Not when training is done, and the run would end without its table."""
    make_folder(tmp_path / "images", ["train/a", "train/b", "test/a", "test/b"], 20)
    (tmp_path / "images/test/b/019.png").write_bytes(b"cut off")
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *args, **options: pytest.fail("training began"))
    options = [*QUICK, "data=image_folder", f"data.root={tmp_path}/images", "data.in_memory=false", "data.workers=0"]
    ended, line = status(tmp_path / "run", *options)
    run_lock.unlock(tmp_path / "run")
    assert (ended, "cannot read the image" in line, "019.png" in line) == (MISTAKE, True, True)


def test_a_broken_file_found_in_the_middle_of_training_is_no_crash(tmp_path):
    make_folder(tmp_path / "images", ["a", "b"], 30)
    cfg = config(*QUICK, "data=image_folder", f"data.root={tmp_path}/images", "data.in_memory=false", "data.workers=1")
    module, data = build_module(cfg), instantiate(cfg.data.datamodule)
    trainer = build_trainer(cfg, tmp_path, None)
    data.setup()
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UnreadableSample, match="cannot read the image") as caught:
        trainer.fit(module, data)
    assert explain(caught.value)[0] == MISTAKE  # wherever it is met: training, evaluation, a contact sheet
