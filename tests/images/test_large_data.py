"""Images that are decoded batch by batch, hostile files, shards."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from conftest import TINY, command, config, make_folder, same
from hostile import make_hostile, picture, turned
from hydra.utils import instantiate
from PIL import Image, ImageOps
from runs_here import status, train, train_until_killed

from repel.base import seeding
from repel.data.loading import BatchFetch
from repel.data.sampler import BatchIndices, GlobalBatches
from repel.data.samples import UnreadableSample
from repel.data.views import slice_params
from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module, build_trainer
from repel.engine.configs import to_container
from repel.engine.outcomes import MISTAKE, explain
from repel.images import folder
from repel.images.decode import MAX_PIXELS, decode, decode_crops, shown
from repel.images.encoded import Encoded
from repel.images.shards import Shards, stream
from repel.images.sources import Files, PackedStrings, Source, worker_count
from repel.images.views import crop

QUICK = [*TINY, "trainer.limit_train_batches=1.0", "callbacks.progress=null", "callbacks.knn=null",
         "logger.tensorboard=null", "data.image_size=8", "trainer.max_epochs=1",
         "data.val_fraction=0.1"]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- one picture


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_a_worker_are_those_of_the_device(tmp_path, channels, flip):
    """Pillow's resampling with a box and the views' own agree to a grey level or two."""
    image = picture(3, (90, 70), "L" if channels == 1 else "RGB")
    image.save(tmp_path / "x.png")
    box = torch.tensor([[3.0, 8, 50, 60], [0, 0, 70, 90], [20, 30, 11, 7]])
    made = decode_crops(str(tmp_path / "x.png"), lambda h, w: box.tolist(), [16, 24, 16], [flip] * 3, channels)
    whole = torch.from_numpy(np.asarray(image).copy()).reshape(70, 90, channels).permute(2, 0, 1)[None].float()
    for one, size, got in zip(box, (16, 24, 16), made, strict=True):
        expected = crop.crop_resize(whole, one[None], torch.tensor([flip]), size)[0]
        assert got.shape == (channels, size, size)
        assert (torch.from_numpy(got.copy()) - expected).abs().max() <= 2


def test_exif_turns_the_picture_before_it_is_cropped(tmp_path):
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        path.write_bytes(turned(5, orientation))
        upright = Image.open(path)
        size = upright.size if orientation >= 5 else upright.size[::-1]

        def boxes(height, width, size=size):
            assert (height, width) == size
            return [(0, 0, height / 2, width / 2)]

        crops = decode_crops(path, boxes, [8], [False], 3)[0]
        straight = ImageOps.exif_transpose(upright).convert("RGB")
        straight = straight.crop((0, 0, straight.width // 2, straight.height // 2))
        expected = straight.resize((8, 8), Image.Resampling.BILINEAR)
        assert np.abs(crops.transpose(1, 2, 0).astype(int) - np.asarray(expected)).max() <= 1


def test_large_jpegs_are_read_at_a_reduced_scale_and_look_the_same(tmp_path, monkeypatch):
    image = picture(2, (1600, 1200))
    image.save(tmp_path / "x.jpg", quality=95)
    drafts = []
    from PIL.JpegImagePlugin import JpegImageFile

    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, mode, size: drafts.append(draft(self, mode, size)))
    got = decode_crops(tmp_path / "x.jpg", lambda h, w: [(100, 200, 900, 1000)], [64], [False], 3)[0]
    assert drafts[0] is not None  # it was taken up
    full = image.resize((64, 64), Image.Resampling.BILINEAR, (200, 100, 1200, 1000))
    assert np.abs(got.transpose(1, 2, 0).astype(int) - np.asarray(full)).mean() < 2
    small = decode_crops(tmp_path / "x.jpg", lambda h, w: [(0, 0, 60, 60)], [64], [False], 3)[0]
    full = image.resize((64, 64), Image.Resampling.BILINEAR, (0, 0, 60, 60))
    assert (
        np.abs(small.transpose(1, 2, 0).astype(int) - np.asarray(full)).mean() < 2
    )  # never from fewer pixels than that


def test_bombs_are_refused_by_their_header(tmp_path):
    from hostile import png

    side = int(MAX_PIXELS**0.5) + 10
    (tmp_path / "bomb.png").write_bytes(png(side, side, b""))
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(tmp_path / "bomb.png", 8, 3)


def test_names_that_cannot_be_printed():
    assert shown("a\nb\x1b[31m.png") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m.png"
    assert shown("\udcff.png") == "\N{REPLACEMENT CHARACTER}.png"
    assert shown("猫 é.png") == "猫 é.png"
    names = ["a", "", "猫", "\udcff", "x" * 300]
    assert list(PackedStrings(names)) == names


# ----------------------------------------------------------------------------------------------------- hostile folders


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    return root, *make_hostile(root)


def test_every_unusual_file_is_read_and_every_broken_one_named(hostile):
    root, good, bad = hostile
    assert good + bad >= 200
    splits = folder.image_folder(str(root), 16, 3, "skip", True, 0, "splits")
    assert (len(splits.train), len(splits.skipped)) == (good, bad)
    assert all("\n" not in line and line.isprintable() for line in splits.skipped)
    assert len(set(splits.skipped)) == bad
    for name in ("cut5.jpg", "bomb.png", "pipe.png", "loop.png", "float.tiff", "empty0.jpg"):
        assert sum(f"/{name}: " in line for line in splits.skipped) == 1, name


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_training_on_hostile_files_skips_the_broken_ones_and_names_them(hostile, tmp_path, in_memory, capsys):
    root, _, bad = hostile
    typed = ["data=image_folder", f"data.root={root}", f"data.in_memory={in_memory}", "data.on_error=skip",
             "data.workers=2"]  # fmt: skip
    assert status(tmp_path / "run", *QUICK, *typed) == (0, "")
    named = (tmp_path / "run/skipped.txt").read_text().splitlines()
    assert len(named) == len(set(named)) <= bad
    assert len(named) == bad or (
        in_memory == "false" and len(named) > bad / 2
    )  # those that fell to an epoch's training
    assert f"skipped  {len(named)} unreadable files" in capsys.readouterr().out


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_training_on_hostile_files_stops_at_the_first_broken_one(hostile, tmp_path, in_memory):
    root, *_ = hostile
    typed = ["data=image_folder", f"data.root={root}", f"data.in_memory={in_memory}", "data.workers=2"]
    code, line = status(tmp_path / "run", *QUICK, *typed)
    assert code == MISTAKE
    assert line.startswith("cannot read the image")
    assert "data.on_error=skip" in line
    assert "\n" not in line


def test_a_folder_that_holds_itself_is_walked_once(tmp_path):
    make_folder(tmp_path, ["a", "b"], 2)
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b/here").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "twin").symlink_to(tmp_path / "a", target_is_directory=True)  # another name is no loop
    assert folder.image_files(tmp_path) == [f"{c}/{n:03d}.png" for c in ("a", "b", "twin") for n in range(2)]


# ----------------------------------------------------------------------------------------------- decoded batch by batch


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
    cfg = config(*QUICK, "data=imagenet", f"data.root={tmp_path}", "data.image_size=8", "data.val_fraction=0.1")
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


# --------------------------------------------------------------------------------------------------------------- shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """90 pictures, of which one cannot be read, in chunks of about ten; packed by the script."""
    root = tmp_path_factory.mktemp("shards")
    make_folder(root / "images", ["a", "b", "c"], 30, size=(14, 12))
    (root / "images/a/000.png").write_bytes(b"")
    result = command("scripts/pack_shards.py", f"{root}/images", f"{root}/packed", "--chunk-bytes", "6KB", cwd=root)
    assert result.returncode == 0, result.stderr
    assert "skipped" in result.stderr
    assert "000.png" in result.stderr
    return root / "packed", root / "images"


def read_shards(shards, shuffle_chunks: int = 2):
    return stream(str(shards[0]), 8, 3, "raise", 0, shuffle_chunks)


def test_shards_hold_every_readable_image_once_with_its_class(shards):
    splits = read_shards(shards)
    assert splits.classes == ["a", "b", "c"]
    assert (len(splits.val), len(splits.test)) == (8, 9)
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


def test_killed_and_resumed_on_shards_equals_never_killed(shards, tmp_path):
    """Bit for bit, with a worker that had read ahead."""
    typed = ["data=stream", f"data.root={shards[0]}", "data.workers=1", "trainer.limit_train_batches=1.0",
             "data.image_size=8", "trainer.max_epochs=2", "callbacks.last.every_n_train_steps=1",
             "callbacks.knn=null"]  # fmt: skip
    cfg, run = config(*TINY, *typed), tmp_path / "run"
    runs.create(run, to_container(cfg), [])
    process = ranks.server.Process(target=train_until_killed, args=(str(run), 6))
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
    with pytest.raises(ValueError, match="pack_shards"):
        Shards(str(tmp_path / "none"), 2)
    with pytest.raises(ValueError, match="shuffle_chunks"):
        stream(str(shards[0]), 8, 3, "raise", 0, 0)


def test_without_litdata_the_extra_is_named(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ValueError, match=r"\[stream\]"):
        read_shards(shards)


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
