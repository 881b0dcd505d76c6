"""Readers, splits, and the counted order of samples."""

import gzip
import hashlib
import importlib.util
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, command, config, make_folder, options
from hydra.utils import instantiate
from PIL import Image

from repel.base import seeding
from repel.data.sampler import GlobalBatches
from repel.data.samples import Splits
from repel.data.splits import held_out
from repel.images import datasets as readers
from repel.images import folder
from repel.images.contact_sheet import preview
from repel.images.decode import decode
from repel.images.memory import Images


def idx(path, array: np.ndarray, compress=False):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((gzip.compress if compress else bytes)(header + array.tobytes()))


def fake_fashion_mnist(root, monkeypatch):
    rng = np.random.default_rng(0)
    for stem, n in (("train", 40), ("t10k", 20)):
        idx(root / f"FashionMNIST/raw/{stem}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), np.uint8))
        idx(root / f"FashionMNIST/raw/{stem}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    return 10


def fake_cifar(name, base, files, meta, key, classes):
    def make(root, monkeypatch):
        import torchvision.datasets

        dataset = getattr(torchvision.datasets, name)
        rng, sums = np.random.default_rng(0), {}
        (root / base).mkdir(parents=True)
        contents = {
            f: {"data": rng.integers(0, 256, (20, 3072), np.uint8), key: [i % 10 for i in range(20)]} for f in files
        }
        contents[meta] = {
            {"labels": "label_names", "fine_labels": "fine_label_names"}[key]: [str(c) for c in range(classes)]
        }
        for file, content in contents.items():
            (root / base / file).write_bytes(pickle.dumps(content))
            sums[file] = hashlib.md5((root / base / file).read_bytes()).hexdigest()
        split = len(files) - 1
        monkeypatch.setattr(dataset, "train_list", [[f, sums[f]] for f in files[:split]])
        monkeypatch.setattr(dataset, "test_list", [[f, sums[f]] for f in files[split:]])
        monkeypatch.setattr(dataset, "meta", {**dataset.meta, "filename": meta, "md5": sums[meta]})
        return classes

    return make


def fake_stl10(root, monkeypatch):
    import torchvision.datasets

    base, rng, sums = root / "stl10_binary", np.random.default_rng(0), {}
    base.mkdir(parents=True)
    names = {"train_X.bin": 20, "unlabeled_X.bin": 30, "test_X.bin": 20}
    for file, n in names.items():
        (base / file).write_bytes(rng.integers(0, 256, (n, 3, 96, 96), np.uint8).tobytes())
    for file in ("train_y.bin", "test_y.bin"):
        (base / file).write_bytes((np.arange(20) % 10 + 1).astype(np.uint8).tobytes())
    (base / "class_names.txt").write_text("\n".join(map(str, range(10))) + "\n")
    for file in base.iterdir():
        sums[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    lists = {"train_list": ["train_X.bin", "train_y.bin", "unlabeled_X.bin"], "test_list": ["test_X.bin", "test_y.bin"]}
    for attribute, files in lists.items():
        monkeypatch.setattr(torchvision.datasets.STL10, attribute, [[f, sums[f]] for f in files])
    return 10


def fake_imagenet(root, monkeypatch):
    for part in ("train", "val"):
        make_folder(root / part, ["n01440764", "n01443537"], 20, size=(50, 40))
    return 2


def fake_shards(root, monkeypatch):
    make_folder(root / "images", ["a", "b"], 20)
    assert command("scripts/pack_shards.py", f"{root}/images", str(root), cwd=root).returncode == 0
    return 2


FAKES = {
    "fashion_mini": lambda root, monkeypatch: 10,
    "fashion_mnist": fake_fashion_mnist,
    "cifar10": fake_cifar(
        "CIFAR10", "cifar-10-batches-py", ["data_batch_1", "test_batch"], "batches.meta", "labels", 10
    ),
    "cifar100": fake_cifar("CIFAR100", "cifar-100-python", ["train", "test"], "meta", "fine_labels", 100),
    "stl10": fake_stl10,
    "image_folder": lambda root, monkeypatch: len(list(make_folder(root, ["a", "b"], 20).iterdir())),
    "imagenet": fake_imagenet,
    "stream": fake_shards,
}


@pytest.mark.parametrize("name", options("data"))
def test_every_dataset_reads_from_its_own_files(name, tmp_path, monkeypatch):
    """The real readers on files of the real format, made here; a new YAML needs a fake of its own."""
    classes = FAKES[name](tmp_path, monkeypatch)
    root = [] if name == "fashion_mini" else [f"data.root={tmp_path}"]
    cfg = config(f"data={name}", "data.batch_size=4", *root)
    data = instantiate(cfg.data.datamodule)
    data.setup()
    shape = (cfg.data.channels, cfg.data.image_size, cfg.data.image_size)
    assert len(data.splits.classes) == classes
    assert data.labelled
    for part in (data.splits.train, data.splits.val, data.splits.test):
        pixels, good = next(part.plain([torch.arange(len(part))]))
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (len(part), *shape)
        assert part.labels.shape == (len(part),)
        assert pixels.float().std() > 10
        assert good.all()
    plain, sizes, views, params = preview(data, 2)
    assert plain.shape == (2, *shape)
    assert torch.stack(views).shape == (2, 2, *shape)
    assert len(params) == len(sizes) == 2
    if name == "stl10":
        assert (data.splits.train.labels == -1).sum() == 30  # the unlabelled train, but are no neighbours
        assert (data.splits.val.labels >= 0).all()
        assert len(data.splits.train.labelled) == 18


def test_bundled_subset_is_balanced():
    splits = readers.fashion_mini(1)
    assert splits.train.labels.bincount().tolist() == [600] * 10
    assert splits.test.labels.bincount().tolist() == [200] * 10
    assert (ROOT / "src/repel/images/fashion_mini/images.npz").stat().st_size < 4e6


def test_subset_is_rebuilt_bit_for_bit(tmp_path):
    """The script on a small stand-in for Debian's package; the real one is checked by its --check."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "scripts/build_fashion_mini.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    rng = np.random.default_rng(0)
    for stem, n in (("train", 6100), ("t10k", 2100)):
        idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 9, (n, 4, 4), np.uint8), compress=True)
        idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", (np.arange(n) % 10).astype(np.uint8), compress=True)
    arrays = build.subset(tmp_path)
    assert arrays["train_images"].shape == (6000, 4, 4)
    assert arrays["train_labels"].tolist() == [i % 10 for i in range(6000)]
    assert arrays["test_images"].shape == (2000, 4, 4)
    first = build.to_npz(arrays)
    assert first == build.to_npz(build.subset(tmp_path))
    result = subprocess.run(
        [sys.executable, ROOT / "scripts/build_fashion_mini.py", "--check", "--source", tmp_path], capture_output=True
    )
    assert result.returncode == 1
    assert b"DIFFERS" in result.stdout


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
    from urllib.error import URLError

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", raises(URLError("no route")))
    with pytest.raises(ValueError, match="data=fashion_mini, which needs no network"):
        readers.cifar10(str(tmp_path), 3)


def raises(error):
    def call(*args, **kwargs):
        raise error

    return call


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((4, 5, 6), 1, (4, 1, 5, 6)),
        ((4, 5, 6), 3, (4, 3, 5, 6)),
        ((4, 5, 6, 3), 3, (4, 3, 5, 6)),
        ((4, 3, 5, 6), 3, (4, 3, 5, 6)),
    ],
)
def test_any_layout_becomes_channels_first(shape, channels, expected):
    pixels = np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(np.uint8)
    made = readers.to_images(pixels, np.zeros(4), channels)
    assert made.pixels.shape == expected
    source = pixels[0, 1, 2] if len(shape) == 3 else (pixels[0, 1, 2, 0] if shape[-1] == 3 else pixels[0, 0, 1, 2])
    assert made.pixels[0, 0, 1, 2] == source
    assert made.labels.dtype == torch.int64


def test_colour_is_never_dropped_silently():
    with pytest.raises(ValueError, match=r"data\.channels"):
        readers.to_images(np.zeros((2, 4, 4, 3), np.uint8), [0, 1], 1)


# ------------------------------------------------------------------------------------------------------ image folders


def read(root, size=8, channels=3, on_error="raise") -> Splits:
    return folder.image_folder(str(root), size, channels, on_error, in_memory=True, workers=0, layout="splits")


def test_folder_layouts(tmp_path):
    whole = read(make_folder(tmp_path / "whole", ["cat", "dog"], 3))
    assert (len(whole.train), whole.test, whole.classes) == (6, None, ["cat", "dog"])
    assert whole.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for part, each in (("train", 4), ("test", 2)):
        make_folder(tmp_path / "split" / part, ["cat", "dog"], each)
    split = read(tmp_path / "split")
    assert (len(split.train), len(split.test), split.val) == (8, 4, None)
    flat = read(make_folder(tmp_path, ["flat"], 5) / "flat")
    assert flat.train.labels is None
    assert flat.classes == []


def test_folder_pixels_and_colour_order(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(red).save(tmp_path / "a/red.png")
    assert read(tmp_path).train.pixels[0].flatten(1).tolist() == [[200] * 64, [0] * 64, [0] * 64]
    assert read(tmp_path, channels=1).train.pixels.unique().tolist() == [60]


def test_folder_in_parallel_equals_one_by_one(tmp_path, monkeypatch):
    make_folder(tmp_path, ["a", "b"], 12)
    alone = read(tmp_path)
    monkeypatch.setattr(folder, "CHUNK", 5)
    monkeypatch.setattr(folder, "cpu_count", lambda: 2)
    together = read(tmp_path)
    assert torch.equal(alone.train.pixels, together.train.pixels)


def test_broken_files_are_named_or_skipped(tmp_path):
    make_folder(tmp_path, ["a", "b"], 3)
    (tmp_path / "a/broken.jpg").write_bytes(b"no image")
    whole = (tmp_path / "b/000.png").read_bytes()
    (tmp_path / "b/half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a/broken\.jpg.*data\.on_error=skip"):
        read(tmp_path)
    splits = read(tmp_path, on_error="skip")
    assert len(splits.train) == 6
    assert [name.split(":")[0] for name in splits.skipped] == [
        str(tmp_path / "a/broken.jpg"),
        str(tmp_path / "b/half.png"),
    ]
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_layouts_that_could_mix_the_splits_are_refused(tmp_path):
    for number, folders in enumerate((["test", "training"], ["train", "bus", "car"], ["val"])):
        make_folder(tmp_path / str(number), folders, 2)
        with pytest.raises(ValueError, match="train, val and test"):
            read(tmp_path / str(number))
    make_folder(tmp_path / "empty", ["train/a", "train/b"], 2)
    (tmp_path / "empty/test").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*test"):
        read(tmp_path / "empty")
    make_folder(tmp_path / "stray", ["a", "b", "."], 2)
    with pytest.raises(ValueError, match=r"000\.png lies outside"):
        read(tmp_path / "stray")


def test_links_to_class_folders_are_followed(tmp_path):
    make_folder(tmp_path / "elsewhere", ["a", "b"], 2)
    (tmp_path / "links").mkdir()
    for name in ("a", "b"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert read(tmp_path / "links").classes == ["a", "b"]


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_bytes(b"")
    for root, on_error, words in [("none", "raise", "no such folder"), ("empty", "raise", "no images"),
                                  ("bad", "skip", "can be read"), ("bad", "ignore", "on_error")]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            read(tmp_path / root, on_error=on_error)


def test_image_modes(tmp_path):
    ramp = np.linspace(0, 65535, 64).reshape(8, 8)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "16bit.png")
    assert abs(int(decode(tmp_path / "16bit.png", 8, 1).mean()) - 127) <= 1  # not clipped to white
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", 8, 3) == 255).all()  # white, not the hidden red
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    assert decode(tmp_path / "palette.png", 8, 3)[:, 0, 0].tolist() == [10, 20, 30]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert decode(tmp_path / "cmyk.jpg", 8, 3)[0].mean() > 200
    upright = Image.new("L", (8, 16), 0)
    upright.paste(255, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg", 8, 1)[0, -1].mean() > 200
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        decode(tmp_path / "float.tiff", 8, 1)


def test_images_are_scaled_and_cropped_to_size(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode(tmp_path / "wide.png", 10, 1) == 255).all()


def test_sets_beyond_memory_are_refused(tmp_path):
    make_folder(tmp_path, ["a"], 3)
    with pytest.raises(ValueError, match=r"data\.image_size"):
        read(tmp_path, size=100_000)


# ------------------------------------------------------------------------------------------------- splits and batches


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
