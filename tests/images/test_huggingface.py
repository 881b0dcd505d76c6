"""data=hf: what folders of Hugging Face's datasets may hold."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from repel.data.huggingface import read_labels
from repel.images.huggingface import huggingface


def test_without_the_package_or_the_folder_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"data=hf needs Hugging Face's datasets: .*hf"):
        huggingface(str(tmp_path), 8, 3)
    with pytest.raises(ValueError, match=r"data\.root=nowhere: there is no such folder"):
        huggingface("nowhere", 8, 3)


@pytest.fixture
def datasets(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="datasets is not installed")


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8))


def test_columns_are_chosen_by_their_kind_or_by_name(tmp_path, datasets):
    rows = {"a": [picture()] * 4, "b": [picture()] * 4, "text": ["x", "y", "x", ""], "n": [3, 1, 3, 1]}
    features = datasets.Features(a=datasets.Image(), b=datasets.Image(), text=datasets.Value("string"),
                                 n=datasets.Value("int64"))  # fmt: skip
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "x")
    root = str(tmp_path / "x")
    with pytest.raises(ValueError, match=r"data\.image_column must name a column of images; there are a, b"):
        huggingface(root, 8, 3)
    with pytest.raises(ValueError, match=r"data\.label_column=kind: .* has the columns a, b, text, n"):
        huggingface(root, 8, 3, image_column="a", label_column="kind")
    assert huggingface(root, 8, 3, image_column="a").train.labels is None
    read = huggingface(root, [4, 6], 1, image_column="b", label_column="text", workers=0)
    assert (read.train.labels.tolist(), read.classes) == ([0, 1, 0, -1], ["x", "y"])
    assert read.train.shape == (1, 4, 6)
    assert list(read.train.names) == [f"train/{i:06d}" for i in range(4)]
    assert huggingface(root, 8, 3, image_column="b", label_column="n").classes == ["1", "3"]


def test_parquet_files_are_read_and_what_is_no_dataset_is_said(tmp_path, datasets):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["p", "q"]))
    made = datasets.Dataset.from_dict({"image": [picture()] * 3, "label": [0, 1, 1]}, features=features)
    (tmp_path / "x").mkdir()
    made.to_parquet(tmp_path / "x/train-00000-of-00001.parquet")
    read = huggingface(str(tmp_path / "x"), 8, 3, workers=0)
    assert (read.train.labels.tolist(), read.classes) == ([0, 1, 1], ["p", "q"])
    (tmp_path / "y").mkdir()
    (tmp_path / "y/state.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.root=.*y: datasets cannot load it"):
        huggingface(str(tmp_path / "y"), 8, 3)


class ClassLabel:
    """As datasets has it."""

    def __init__(self, *names: str):
        self.names = list(names)


class Part:
    """A split of a dataset with labels alone."""

    def __init__(self, labels: list, feature: object, column: str = "label"):
        self.features, self.labels = {column: feature}, labels

    def with_format(self, kind: None) -> dict:
        return dict.fromkeys(self.features, self.labels)


def test_splits_that_number_their_classes_otherwise_are_read_by_name():
    train, test = Part([0, 1, None, -1], ClassLabel("cat", "dog")), Part([0, 1, 2], ClassLabel("dog", "cat", "fox"))
    labels, classes = read_labels("x", {"train": train, "test": test}, None, "data.label_column")
    assert classes == ["cat", "dog", "fox"]
    assert (labels["train"].tolist(), labels["test"].tolist()) == ([0, 1, -1, -1], [1, 0, 2])
    for other, words in ((Part([0], ClassLabel("cat"), "kind"), "test has no column label"),
                         (Part([0], object()), "label of test has no names")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            read_labels("x", {"train": train, "test": other}, None, "data.label_column")
