"""scripts/benchmark_final_evaluation.py: its page, from results that are made up."""

import argparse

import pytest
from conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_final_evaluation

    return benchmark_final_evaluation


def result(script, last: str, linear: float, l2: float) -> dict:
    names = [f"{column}{task}{kind}" for column in ("baseline/raw_", "baseline/untrained_", last)
             for task in script.TASKS for kind in ("knn_top1", "linear_top1")]  # fmt: skip
    metrics = dict.fromkeys(names, 0.5) | {f"{last}linear_top1": linear}
    return {"CPU": 4.0, "wall": 2.0, "metrics": metrics, "l2": {f"{last}linear_top1": l2}}


def test_shares_are_of_each_round(script):
    old, new = ([{"CPU": cpu, "wall": 2 * cpu} for cpu in seconds] for seconds in ((8.0, 10.0), (2.0, 5.0)))
    assert script.rows(old, new).splitlines() == [
        "| CPU | 9.0 (8.0 to 10.0) | 3.5 (2.0 to 5.0) | 0.38 (0.25 to 0.50) |",
        "| by the clock | 18.0 (16.0 to 20.0) | 7.0 (4.0 to 10.0) | 0.38 (0.25 to 0.50) |",
    ]


def test_a_last_epoch_is_found_by_either_name_and_another_l2_is_named(script):
    old, new = result(script, "test/last_", 0.75, 1e-3), result(script, "test/", 0.7505, 1e-4)
    lines = script.accuracies(old, new).splitlines()
    assert "| linear | 0.5000, 0.5000 | 0.5000, 0.5000 | 0.7500, 0.7505 (l2 0.001, 0.0001) |" in lines
    assert lines[-1].startswith("| season linear | ")
    assert len(lines) == 3 + 6


def test_the_page_has_what_was_measured(script):
    options = argparse.Namespace(threads=1, epochs=2)
    old, new = result(script, "test/last_", 0.75, 1e-3), result(script, "test/", 0.7505, 1e-4)
    text = script.page(options, [old, old], [new, new], [{"CPU": 3.0, "wall": 4.0}])
    assert "OLD_CHECKOUT --rounds 2 --threads 1 --epochs 2`" in text
    assert "| CPU | 4.0 (4.0 to 4.0) | 4.0 (4.0 to 4.0) | 1.00 (1.00 to 1.00) |" in text
    assert text.endswith("in seconds: 3.0 (3.0 to 3.0) CPU, 4.0 (4.0 to 4.0) by the clock.\n")
    assert "{" not in text
