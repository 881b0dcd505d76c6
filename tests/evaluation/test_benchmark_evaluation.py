"""scripts/benchmark_evaluation.py on a few features."""

import argparse
import queue

import pytest
from conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_evaluation

    return benchmark_evaluation


def test_every_row_is_measured_and_stands_in_the_page(script, tmp_path):
    options = argparse.Namespace(features=6, queries=4, classes=5, probe_classes=3, setup_up_to=40, in_memory_up_to=40,
                                 dtype="float32")  # fmt: skip
    found = {}
    for rows in (40, 80):
        path = tmp_path / str(rows)
        script.make_file(path, rows, options)
        assert path.stat().st_size == rows * 6 * 4
        for form in script.FORMS:
            for evaluator in script.EVALUATORS:
                answers = queue.SimpleQueue()
                script.measure(options, path, rows, evaluator, form, answers)
                seconds, memory = answers.get()
                found[f"{rows} {form} {evaluator}"] = {"seconds": seconds, "memory": round(memory)}
    assert list(found["40 file linear"]["seconds"]) == ["set-up", "pass"]
    assert list(found["80 file linear"]["seconds"]) == ["pass"]
    assert list(found["80 memory knn"]["seconds"]) == ["2 queries", "4 queries"]
    lines = script.page(options, found).splitlines()
    assert len([line for line in lines if line.startswith(("| 40 |", "| 80 |"))]) == 16
    assert "{" not in "".join(lines)
