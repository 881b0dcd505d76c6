"""data=array: images and spectrograms in NumPy's files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from composing import composed
from folder_runs import QUICK
from hydra.utils import instantiate
from PIL import Image
from runs_here import status

from repel.data.array_labels import encode_labels
from repel.engine.build import build_data
from repel.images.array_files import axes_of, choose_arrays, image_shape
from repel.images.arrays import MappedImages, arrays
from repel.images.contact_sheet import preview
from repel.images.memory import Images

RANDOM = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


@pytest.mark.parametrize(("shape", "axes"), [((5, 40, 100), "NHW"), ((5, 8, 9, 3), "NHWC"), ((5, 1, 8, 9), "NCHW")])
@pytest.mark.parametrize("in_memory", [True, False])
def test_every_order_of_axes_gives_the_same_images(tmp_path, shape, axes, in_memory):
    stored = pixels(*shape)
    root = saved(tmp_path / "x.npy", stored)
    channels, height, width = image_shape(root, None, None)
    train = arrays(root, [height, width], channels, in_memory=in_memory).train
    assert isinstance(train, Images if in_memory else MappedImages)
    plain = next(iter(train.plain([torch.tensor([3, 1])])))[0]
    expected = np.moveaxis(stored.reshape(*shape, *[1] * (4 - len(shape))), -1, 1) if axes != "NCHW" else stored
    assert np.array_equal(plain.numpy(), expected[[3, 1]])
    assert torch.equal(train[torch.tensor([4, 3])].fetch(torch.tensor([1]), None).x, plain[:1])
    mask = torch.tensor([False, True, False, True, True])
    assert torch.equal(next(iter(train[mask].plain([torch.tensor([0])])))[0], plain[1:])


@pytest.mark.parametrize(("array", "values"), [
    (np.linspace(0, 1, 32, dtype=np.float64).reshape(2, 4, 4), None),
    (np.linspace(-80, 0, 32, dtype=np.float32).reshape(2, 4, 4), [-80.0, 0.0]),
    (np.arange(32).reshape(2, 4, 4) * 8 + 7, [7, 255]),
])  # fmt: skip
def test_other_numbers_become_256_levels(tmp_path, array, values):
    train = arrays(saved(tmp_path / "x.npy", array), 4, 1, values=values).train
    assert torch.equal(train.x.flatten(), torch.linspace(0, 255, 32).round().byte())


def test_a_gray_array_is_repeated_and_no_number_is_black(tmp_path):
    array = np.full((3, 4, 4), np.nan, np.float32)
    array[:, 0] = 1
    train = arrays(saved(tmp_path / "x.npy", array), 4, 3).train
    assert train.x[:, :, 0].unique().tolist() == [255]
    assert train.x[:, :, 1:].unique().tolist() == [0]
    assert train.x.shape == (3, 3, 4, 4)


def test_splits_and_labels_are_found_by_their_names(tmp_path):
    x = {"x_train": pixels(6, 4, 4), "x_test": pixels(3, 4, 4)}
    y = {"y_train": np.array([0, 1, 2, 0, 1, -1]), "y_test": np.array([2, 1, 0])}
    np.savez_compressed(tmp_path / "all.npz", **x, **y)
    for name, array in {**x, **y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "labels.npz", **y)
    np.savez(tmp_path / "images.npz", **x)
    for root, labels in (("all.npz", None), ("", None), ("images.npz", str(tmp_path / "labels.npz"))):
        read = arrays(str(tmp_path / root), 4, 1, label_file=labels)
        assert read.train.labels.tolist() == [0, 1, 2, 0, 1, -1]
        assert read.test.labels.tolist() == [2, 1, 0]
        assert read.val is None
        assert read.classes == ["0", "1", "2"]


@pytest.mark.parametrize(("labels", "codes", "classes"), [
    (np.array(["cat", "", "ant"]), [1, -1, 0], ["ant", "cat"]),
    (np.array([b"cat", b"ant", b"cat"]), [1, 0, 1], ["ant", "cat"]),
    (np.array([[7], [3], [7]], np.uint8), [1, 0, 1], ["3", "7"]),
    (np.array([2.0, np.nan, 1.0]), [1, -1, 0], ["1", "2"]),
    (np.eye(3)[[2, 0, 2]], [1, 0, 1], ["0", "2"]),
])  # fmt: skip
def test_labels_of_every_type(labels, codes, classes):
    found, names = encode_labels({"train": labels})
    assert found["train"].tolist() == codes
    assert names == classes


def test_color_is_read_as_gray_as_pillow_does(tmp_path):
    """evaluate.py reads other data with the channels of the run."""
    colors = pixels(2, 5, 6, 3)
    np.save(tmp_path / "x.npy", colors)
    for in_memory in (True, False):
        train = arrays(str(tmp_path / "x.npy"), [5, 6], 1, in_memory=in_memory).train
        ((read, _),) = train.plain([torch.arange(2)])
        assert np.array_equal(read[:, 0], [np.asarray(Image.fromarray(one).convert("L")) for one in colors])


@pytest.mark.parametrize(("made", "options", "words"), [
    (pixels(3, 4, 4), {"channels": 2}, "data.channels=2, and the images have 1; both must be"),
    (pixels(3, 4, 4, 4), {}, "no axis has 1 or 3 channels; data.axes"),
    (pixels(3, 1, 4, 3), {}, "both the second and the last axis could be the channels; data.axes"),
    (pixels(3, 4, 4), {"axes": "NHWC"}, "data.axes must be NHW, NHWC, NCHW, with a letter for each"),
    (pixels(3, 4), {}, "no array of training images"),
    (np.array([None, "x"]), {}, "x holds Python objects"),
    (np.arange(48).reshape(3, 4, 4) * 99, {}, r"'data.range=\[LOW,HIGH\]', such as \[0,4653\]"),
    (np.linspace(-80, 0, 48).reshape(3, 4, 4), {}, r"float64 from -80 to 0 have no known range"),
    (pixels(3, 4, 4), {"values": [-80, 0]}, r"data\.range=\[-80, 0\]: .* would all be black or white"),
    (np.full((3, 4, 4), "x"), {}, "images must be numbers"),
    (pixels(3, 4, 4), {"in_memory": 1.5}, "data.in_memory must be"),
    (pixels(3, 4, 4), {"label_file": "nowhere.npy"}, "data.label_file=nowhere.npy: there is no such"),
    (pixels(3, 4, 4), {"key": "y"}, "whose name has 'y' in it"),
])  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, made, options, words):
    root = tmp_path / "x.npy"
    np.save(root, made, allow_pickle=True)
    with pytest.raises(ValueError, match=words):
        arrays(str(root), 4, **{"channels": 1, **options})
    with pytest.raises(ValueError, match=r"data\.root=.*: there is no such"):
        choose_arrays(str(tmp_path / "gone.npz"))


def test_several_arrays_that_could_be_meant_are_told_apart_by_keys(tmp_path):
    root = str(tmp_path / "x.npz")
    np.savez(root, images=pixels(3, 4, 4), masks=pixels(3, 4, 4), label_a=np.arange(3), label_b=np.arange(3))
    with pytest.raises(ValueError, match=r"images and masks both look like the train images; .*data\.key"):
        choose_arrays(root)
    with pytest.raises(ValueError, match=r"label_a and label_b .*data\.label_key"):
        choose_arrays(root, key="image")
    chosen = choose_arrays(root, key="image", label_key="_b")["train"]
    assert (chosen.images.name, chosen.labels.name) == ("images", "label_b")
    assert axes_of((3, 4, 4), None) == "NHW"


@pytest.mark.parametrize("in_memory", ["auto", pytest.param("false", marks=pytest.mark.slow)])
def test_spectrograms_train_at_their_own_size(tmp_path, in_memory):
    """40x100 in training and evaluation, from the file's header: nothing is typed but the file."""
    np.save(tmp_path / "x.npy", RANDOM.normal(size=(48, 40, 100)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.arange(48) % 3)
    quick = [option for option in QUICK if not option.startswith("data.image_size")]
    typed = [*quick, "data=array", f"data.root={tmp_path / 'x.npy'}", f"data.label_file={tmp_path / 'y.npy'}",
             "data.range=[-3,3]", f"data.in_memory={in_memory}", "data.batch_size=8"]  # fmt: skip
    cfg = composed("train", typed)
    assert (cfg.data.image_size, cfg.data.channels, cfg.data.mean) == ([40, 100], 1, [0.5])
    data = build_data(cfg)
    data.setup()
    assert data.splits.train.description.startswith("images of 40x100x1")
    assert preview(data, 2).views[0].shape == (2, 1, 40, 100)
    assert instantiate(cfg.views).augmentations[0].size == (40, 100)
    if in_memory == "false":
        assert status(tmp_path / "run", *typed) == (0, "")
