"""scripts/benchmark_text.py: what is given to both libraries."""

import importlib
import json

import pytest
from conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmark_text")


def test_each_word_is_in_one_half(script):
    first, second = script.halves("one two three four five")
    assert sorted([*first.split(), *second.split()]) == sorted(["one", "two", "three", "four", "five"])
    assert len(first.split()) == 2
    assert script.halves("one two three four five") == (first, second)


@pytest.mark.parametrize("pairs", ["halves", "same"])
def test_pairs_are_of_training_texts_alone(script, tmp_path, pairs):
    script.write_texts(tmp_path, pairs, limit=300)
    found = json.loads((tmp_path / "texts.json").read_text(encoding="utf-8"))
    assert len(found["all"]) + len(found["val"]) == 300
    assert len(found["first"]) == len(found["second"]) == len(found["train_labels"]) == len(found["all"])
    assert not set(found["all"]) & {*found["val"], *found["test"]}
    assert (found["first"] == found["all"]) == (pairs == "same")


def test_a_library_that_is_not_there_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["benchmark_text.py"])
    assert script.main() == 2
    assert "sentence_transformers is not installed: pip install" in capsys.readouterr().err
