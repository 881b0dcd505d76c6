"""scripts/benchmark_recommendation.py: what both libraries read, and how their vectors are scored."""

import importlib
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from repel.data.samples import Splits
from repel.interactions.pairs import EntityStore, Interactions


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmark_recommendation")


@pytest.fixture
def rivals(script):
    return sys.modules["_recommendation_rivals"]


@pytest.fixture
def splits():
    pairs = torch.stack([torch.arange(60) // 10, torch.arange(60) * 7 % 30], 1).int()
    store = EntityStore(6, 30)
    train, val, test = (Interactions(pairs[part::5], store=store) for part in (0, 1, 2))
    return Splits(train, test, val)


def test_recbole_reads_the_pairs_of_each_split(rivals, splits, tmp_path):
    assert rivals.write_pairs(splits, tmp_path) == {"users": 6, "items": 30, "train": 12, "val": 12, "test": 12}
    head, *lines = (tmp_path / "pairs" / "pairs.valid.inter").read_text(encoding="utf-8").splitlines()
    assert head == "user:token\titem:token"
    assert [list(map(int, line.split("\t"))) for line in lines] == splits.val.x.tolist()


def test_a_form_that_sorts_user_by_user_gives_the_same_scores(script, rivals, splits, tmp_path):
    rivals.write_pairs(splits, tmp_path)
    draws = np.random.default_rng(0)
    vectors = {side: draws.standard_normal((n, 4)).astype(np.float32) for side, n in (("user", 6), ("item", 30))}
    np.savez(tmp_path / "vectors.npz", **vectors)
    found, brute = rivals.score(tmp_path, product=True), rivals.brute_force(tmp_path)
    assert found == pytest.approx(brute, abs=1e-9)
    assert found != rivals.score(tmp_path, product=False)
    script.check_agreement(found | {"own_recall": found["recall"], "own_ndcg": found["ndcg"]}, brute)
    with pytest.raises(AssertionError, match="by brute force"):
        script.check_agreement(found | {"own_recall": found["recall"] + 0.01, "own_ndcg": found["ndcg"]}, brute)


def test_time_until_a_value_counts_the_epochs_up_to_it(script):
    found = {"curve": [0.1, 0.3, 0.2], "epochs": [2.0, 1.0, 4.0]}
    assert script.until(found, 0.1) == 2
    assert script.until(found, 0.2) == 3
    assert script.until(found, 0.31) is None
    assert script.epoch_seconds(found) == 2.5


def test_ratings_become_pairs_that_are_trained_or_tested(script, tmp_path):
    rows = ["user_id:token\titem_id:token\trating:float", *(f"{u}\t{100 + i}\t3" for u in range(5) for i in range(8))]
    (tmp_path / "ratings.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    overrides = script.write_ml100k(tmp_path / "ratings.inter", tmp_path)
    assert overrides == ["data=interactions_lightgcn", f"data.root={tmp_path}"]
    train, test = (
        [
            (line.split()[0], item)
            for line in (tmp_path / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            for item in line.split()[1:]
        ]
        for name in ("train", "test")
    )
    assert sorted(train + test) == sorted((str(u), str(i)) for u in range(5) for i in range(8))
    assert 0 < len(test) < len(train)


@pytest.mark.parametrize("encoder", ["table", "lightgcn"])
def test_every_row_of_the_table_is_a_config(script, rivals, encoder):
    for overrides in script.OURS[encoder].values():
        assert rivals.resolved(*overrides, *script.BUNDLED).encoder._target_.lower().endswith(encoder)


def test_a_recbole_that_is_not_there_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark_recommendation.py"])
    assert script.main() == 2
    assert "--recbole names no Python that has RecBole" in capsys.readouterr().err
