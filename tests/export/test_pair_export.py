"""export.py of users and items: vectors with names, and an ONNX scorer."""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from item_runs import ITEMS, USERS, pair_run, weights
from safetensors.numpy import load_file

from repel.export import pair_export
from repel.export.export import export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pair_run(tmp_path_factory.mktemp("pairs") / "run")


def cosines(run) -> np.ndarray:
    table = F.normalize(weights(run), dim=1)
    return (table[:USERS] @ table[USERS:].T).numpy()


def test_vectors_have_names_and_their_products_are_the_scores(run, done, capsys):
    folder = done(export, f"ckpt={run}")
    assert "vectors.safetensors: differs from the original by at most" in capsys.readouterr().out
    vectors = load_file(folder / "vectors.safetensors")
    assert np.allclose(vectors["users"] @ vectors["items"].T, cosines(run), atol=1e-6)
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    assert names == {"users": [*map(str, range(USERS))], "items": [*map(str, range(ITEMS))]}
    assert (folder / "README.md").is_file()
    assert not (folder / "scorer.onnx").exists()


def test_the_readme_runs(run, done, capsys, monkeypatch):
    folder = done(export, f"ckpt={run}")
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S)[0], {})
    best = cosines(run)[0].argsort()[::-1][:10]
    assert capsys.readouterr().out.strip() == str([str(item) for item in best])


@pytest.mark.parametrize("k", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_the_scorer_ranks_as_the_run_does(run, done, k):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    folder = done(export, f"ckpt={run}", "format=[onnx]", "compare_on=data", *([] if k is None else [f"top_k={k}"]))
    session = onnxruntime.InferenceSession(str(folder / "scorer.onnx"))
    users = np.array([4, 0, 39, 4, 7])
    scores, *items = session.run(None, {"users": users})
    expected = cosines(run)[users]
    if k is None:
        assert np.allclose(scores, expected, atol=1e-6)
    else:
        assert np.array_equal(items[0], np.argsort(-expected, axis=1)[:, :k])
        assert np.allclose(scores, np.sort(expected)[:, ::-1][:, :k], atol=1e-6)


def test_a_file_that_differs_is_not_written(run, done, monkeypatch, tmp_path):
    wrong = {"users": torch.zeros(USERS, 8), "items": torch.zeros(ITEMS, 8)}
    monkeypatch.setattr(pair_export, "load_file", lambda path: wrong)
    with pytest.raises(RuntimeError, match=r"differs from the original by at most .* of the largest score"):
        done(export, f"ckpt={run}")
    assert not {"names.json", "README.md"} & {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(("typed", "words"), [
    ("normalize=true", "normalize=true is for images"), ("top_k=25", "top_k must be from 1 to the number of items, 24"),
    ("format=[sentence_transformers]", "is for texts"),
])  # fmt: skip
def test_mistakes_are_one_line(run, done, typed, words):
    with pytest.raises(ValueError, match=words):
        done(export, f"ckpt={run}", typed)
