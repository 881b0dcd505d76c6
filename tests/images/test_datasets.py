"""Every dataset of conf/data: the real readers, on files of the real format that are made here."""

import gzip
import hashlib
import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, command, config, make_folder, options_of
from hydra.utils import instantiate
from image_sizes import sizes_seen
from PIL import Image

from repel.images import datasets as readers
from repel.images.contact_sheet import preview


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


def fake_huggingface(root, monkeypatch) -> int:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    generator = np.random.default_rng(0)
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=["a", "b", "c"]))

    def made(count: int):
        pictures = [Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8)) for _ in range(count)]
        rows = {"picture": pictures, "kind": [i % 3 for i in range(count)]}
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict(train=made(40), validation=made(6), test=made(8), extra=made(2)).save_to_disk(root)
    return 3


def fake_arrays(root, monkeypatch) -> int:
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 8)):
        np.save(root / f"{split}_images.npy", generator.integers(0, 256, (count, 12, 12), np.uint8))
        np.save(root / f"{split}_labels.npy", np.arange(count) % 4)
    return 4


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
    "array": fake_arrays,
    "hf": fake_huggingface,
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("imagenet", "stream", "stl10", "fashion_mnist")))
     for name in options_of("data", "images")],
)  # fmt: skip
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
    for size in (cfg.data.image_size // 2, cfg.data.image_size * 5 // 4):
        here = ["data.workers=0"] if "workers" in cfg.data else []
        data = instantiate(config(f"data={name}", f"data.image_size={size}", *here, *root).data.datamodule)
        data.setup()
        for part in (data.splits.train, data.splits.val, data.splits.test):
            assert next(part.plain([torch.tensor([0])]))[0].shape[-2:] == (size, size)
        assert torch.stack(preview(data, 2).views).shape[-2:] == (size, size)
    if name == "stl10":
        assert (data.splits.train.labels == -1).sum() == 30  # the unlabelled train, but are no neighbours
        assert (data.splits.val.labels >= 0).all()
        assert len(data.splits.train.labelled) == 18


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "factor"), [(name, (0.5, 1.25)[number % 2]) for number, name in enumerate(options_of("data", "images"))]
)
def test_every_dataset_trains_and_evaluates_at_one_size(name, factor, tmp_path, monkeypatch):
    FAKES[name](tmp_path, monkeypatch)
    data = [f"data={name}", *([] if name == "fashion_mini" else [f"data.root={tmp_path}"])]
    size = int(min(config(*data).data.image_size, 64) * factor)
    here = ["data.workers=0"] if name == "imagenet" else []  # image_folder's reader, which has workers above
    case = *data, "data.batch_size=4", "data.val_fraction=0.2", *here
    seen, _ = sizes_seen(case, size, tmp_path, monkeypatch)
    assert seen["train"] == seen["eval"] == {(size, size)}


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
