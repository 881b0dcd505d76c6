"""data=text_hf: columns, splits and labels of Hugging Face's datasets on disk."""

import sys

import pytest

from repel.text.hf_datasets import text_hf


def test_without_the_package_or_the_folder_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"data=text_hf needs Hugging Face's datasets: .*hf"):
        text_hf(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.root=nowhere: there is no such folder"):
        text_hf("nowhere")


@pytest.fixture
def datasets(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.mark.parametrize("cache", [None, "kept"])
def test_columns_splits_and_labels(tmp_path, datasets, capsys, cache):
    kinds = datasets.ClassLabel(names=["z", "a"])
    features = datasets.Features(words=datasets.Value("string"), other=datasets.Value("string"), kind=kinds)
    train = {"words": ["one", None, " two ", "three"], "other": ["1", "2", "3", ""], "kind": [0, 1, 1, 0]}
    test = {"words": ["one"], "other": ["1"], "kind": [1]}
    parts = {"train": datasets.Dataset.from_dict(train, features=features),
             "validation": datasets.Dataset.from_dict(test, features=features)}  # fmt: skip
    root = str(tmp_path / "saved")
    datasets.DatasetDict(parts).save_to_disk(root)
    where = None if cache is None else str(tmp_path / cache)
    for _ in range(2):
        splits = text_hf(root, "words", positive="other", cache=where)
        assert (splits.train.texts, splits.val.texts, splits.test) == (["one", "two"], ["one"], None)
        assert list(splits.train.store.positives) == ["1", "3"]
        assert (splits.classes, splits.train.labels.tolist(), splits.val.labels.tolist()) == (["z", "a"], [0, 1], [1])
        lines = capsys.readouterr().out
        assert "texts    train: found 4 rows, read 2; left out: 1 without a text, 1 without a positive" in lines
        assert "1 of 1 val texts are in train, too" in lines
    assert text_hf(root, positive="other").train.texts == ["one", "two"]  # the only other column of strings
    with pytest.raises(ValueError, match=r"data\.text=COLUMN must say which .* has words, other"):
        text_hf(root)
    with pytest.raises(ValueError, match=r"data\.negative=bad: data\.root=.* has no such column in train"):
        text_hf(root, "words", negative="bad")
    with pytest.raises(ValueError, match=r"data\.label=bad: "):
        text_hf(root, "words", label="bad")
