"""scripts/benchmark_sentences.py on a few lines of each file."""

import importlib
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT
from plain_texts import bag_network, plain_texts, sentences


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmark_sentences")


def write(path, n, seed, encoding="latin-1"):
    samples = sentences(n, seed)
    lines = [
        f"{label} {text} caf\xe9 \x85 x\n" for text, label in zip(samples.texts, samples.labels.tolist(), strict=True)
    ]
    path.write_bytes("".join(lines).encode(encoding))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "custrev.all", 60, 1)
    write(tmp_path / "TREC.train.all", 60, 2)
    write(tmp_path / "TREC.test.all", 15, 3)
    for name, n, seed in (("train", 60, 4), ("dev", 15, 5), ("test", 15, 6)):
        write(tmp_path / f"stsa.binary.{name}", n, seed, "utf-8")
    for name in ("train", "test"):
        words = ("wing", "sail", "leaf")
        rows = [f"a {a},the {b},{5 if a == b else 0.5}\n" for a in words for b in words]
        (tmp_path / f"stsb-en-{name}.csv").write_text("".join(rows), encoding="utf-8")
    return tmp_path


def test_a_table_of_the_sets_that_are_there(script, folder, monkeypatch, capsys):
    def run_features(ckpt):
        def features(texts, train):
            return bag_network().encode(plain_texts(texts))[0] * (1 if ckpt == "a" else torch.arange(24))

        return features

    monkeypatch.setattr(script, "run_features", run_features)
    monkeypatch.setattr(script, "FOLDS", 2)
    monkeypatch.setattr(script, "linear_probe", partial(script.linear_probe, l2=[0.1]))
    assert script.main([str(folder), "bag=a,b", "--no-page"]) == 0
    printed = capsys.readouterr().out
    assert "MR     left out: no rt-polarity.all" in printed
    table = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0]] == ["set", "TF-IDF", "LSA-128", "bag"]
    rows = {row[0].strip(): row[1:] for row in table[2:]}
    assert set(rows) == {"CR", "SST-2", "TREC", "STS-B", "mean of the 3 classifications"}
    assert all(float(cell.split()[0]) > 40 for row in rows.values() for cell in row)
    assert "±" in rows["CR"][2]
    assert "±" not in rows["CR"][0]


def test_lines_end_where_they_end(script, folder):
    texts, labels = script.read_lines(folder / "custrev.all", "latin-1")
    assert len(texts) == len(labels) == 60
    assert all(text.endswith("caf\xe9 \x85 x") for text in texts)
    assert set(labels) == {0, 1, 2}


@pytest.mark.parametrize(("sizes", "folds"), [([60], 10), ([45, 15], 1), ([40, 10, 10], 1)])
def test_each_text_is_in_one_part(script, sizes, folds):
    splits = list(script.split_places(sizes, np.arange(60) % 3))
    assert len(splits) == folds
    assert all(sorted([*train, *val, *test]) == list(range(60)) for train, val, test in splits)
    tested = sorted(np.concatenate([test for *_, test in splits]))
    assert tested == list(range(0 if folds == 10 else 60 - sizes[-1], 60))


@pytest.mark.parametrize("name", ["CR", "SST-2", "TREC"])
def test_nothing_is_fitted_to_a_test_text(script, folder, monkeypatch, name):
    fitted, tested = [], []

    def features(texts, places):
        fitted.append(set(places))
        return torch.zeros(len(texts), 1)

    monkeypatch.setattr(script, "fold_accuracy", lambda x, y, split: tested.append(set(split[2])) or 1.0)
    assert script.measure_set(folder, name, features) == 1
    assert all(not a & b for a, b in zip(fitted, tested, strict=True))
    assert all(fitted)


def test_nothing_to_measure_is_an_error(script, tmp_path, capsys):
    assert script.main([str(tmp_path), "--no-page"]) == 2
    assert "error" in capsys.readouterr().err
    for wrong in (["--sets", "MRPC"], ["run"]):
        with pytest.raises(SystemExit):
            script.main([str(tmp_path), *wrong])


def test_encoders_learn_from_no_text_of_a_test_file(script, folder):
    found = script.unlabeled_texts(folder, ["CR", "SST-2", "TREC", "MR", "STS-B"])
    assert len(found) == len(set(found))
    parts = {file: set(script.read_lines(folder / file, "latin-1")[0]) for file in ("TREC.train.all", "TREC.test.all")}
    assert parts["TREC.train.all"] - parts["TREC.test.all"] <= set(found)
    assert not parts["TREC.test.all"] & set(found)
    assert script.unlabeled_texts(folder, ["MR"]) == []


def test_training_changes_the_trained_encoders_alone(script, folder, monkeypatch):
    encoders = importlib.import_module("_sentence_encoders")
    small = ["encoder=bag", "encoder.width=8", "data.batch_size=16"]
    monkeypatch.setattr(encoders, "ENCODERS", {"bag": (small, 1)})
    texts = script.unlabeled_texts(folder, ["CR", "TREC"])
    columns = encoders.trained_columns(texts, seeds=2, minilm=None, quick=True)
    assert [len(columns[name]) for name in ("bag, untrained", "bag")] == [1, 2]
    before, after, other = (x(texts, None) for x in (*columns["bag, untrained"], *columns["bag"]))
    assert before.shape == (len(texts), 8)
    assert not torch.allclose(before, after)  # of the same seed
    assert not torch.allclose(after, other)
