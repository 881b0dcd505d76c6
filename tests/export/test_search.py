"""scripts/search.py: the nearest images of a set to an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import command, config
from export_runs import checkpoint, folder_data
from PIL import Image

from repel.engine.build import build_data
from repel.export.embed import embed
from repel.export.search import _checkpoint_file, nearest_matches, open_folder, query_feature
from repel.images import datasets
from repel.images.decode import decode


@pytest.mark.parametrize("typed", [["format=npy"], ["format=parquet"], ["data.mean=[0.1]", "data.std=[0.5]"]])
def test_an_image_of_the_set_is_its_own_nearest(run, pictures, done, typed):
    out = done(embed, f"ckpt={run}", *folder_data(pictures), *typed, "layer=both")
    for layer in ("h", "z"):
        embedded = open_folder(out, layer, None)
        for file in ("train/red/002.png", "test/green/001.png"):
            found = nearest_matches(query_feature(pictures / file, embedded, None), embedded, 20)
            assert len(found) == 11
            assert found[0].file == file
            assert found[0].similarity == pytest.approx(1, abs=1e-6)
            assert found[1].similarity < 1 - 1e-6
            similarities = [f.similarity for f in found]
            assert similarities == sorted(similarities, reverse=True)


def search(*args, cwd):
    return command("scripts/search.py", *map(str, args), cwd=cwd)


def test_search_prints_and_draws(run, pictures, done, tmp_path):
    from repel.images.contact_sheet import CELL

    out = done(embed, f"ckpt={run}", *folder_data(pictures))
    result = search(pictures / "train/red/002.png", out, "k=7", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["1.0000", "red", "train/red/002.png"]
    assert len(lines) == 8
    assert lines[-1] == str(out / "nearest_002.png")
    sheet = np.asarray(Image.open(lines[-1]))
    query, first = sheet[6 : 6 + CELL, 6 : 6 + CELL], sheet[160:280, 6 : 6 + CELL]
    expected = decode(pictures / "train/red/002.png", CELL, 1)[0]
    assert np.array_equal(query[1:-1, 1:-1, 0], expected[1:-1, 1:-1])
    assert any(np.array_equal(first[i : i + CELL - 2, 1:-1, 0], expected[1:-1, 1:-1]) for i in range(10))


def test_search_draws_sets_without_files_from_the_data(run, done, tmp_path):
    data = build_data(config()).read()
    Image.fromarray(data.test.pixels[5, 0].numpy()).save(tmp_path / "query.png")
    out = done(embed, f"ckpt={run}")
    embedded = open_folder(out, None, None)
    found = nearest_matches(query_feature(tmp_path / "query.png", embedded, None), embedded, 3)
    assert found[0].file == "test/000005"
    from repel.export.search import read_pictures

    made = read_pictures([*found, found[0]._replace(file="test/999999")], embedded.record)
    assert torch.equal(made[0], data.test.pixels[5])
    assert made[-1] is None


@pytest.mark.parametrize("size", [20, 36])
def test_an_image_of_a_stored_set_is_its_own_nearest_at_another_size(done, tmp_path, monkeypatch, size):
    run = checkpoint(tmp_path / "run", "encoder.width=4", f"data.image_size={size}")
    stored = datasets.fashion_mini(1)
    few = replace(stored, train=stored.train[::40], test=stored.test[::40])
    monkeypatch.setattr(datasets, "fashion_mini", lambda channels: few)
    embedded = open_folder(done(embed, f"ckpt={run}"), None, None)
    for place in (0, 7, 31):
        Image.fromarray(few.test.pixels[place, 0].numpy()).save(tmp_path / "query.png")
        found = nearest_matches(query_feature(tmp_path / "query.png", embedded, None), embedded, 2)
        assert found[0].file == f"test/{place:06d}"
        assert found[0].similarity > 0.9999 > found[1].similarity


def test_features_of_another_checkpoint_are_refused(run, pictures, done, tmp_path):
    embedded = open_folder(done(embed, f"ckpt={run}", *folder_data(pictures)), None, None)
    query = pictures / "train/red/002.png"
    with pytest.raises(ValueError, match=r"epoch 5.*made at epoch 3"):
        query_feature(query, embedded, str(run / "checkpoints/last.ckpt"))
    with pytest.raises(ValueError, match="no checkpoint"):
        query_feature(query, embedded, str(tmp_path / "gone.ckpt"))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png.*not an image"):
        query_feature(tmp_path / "text.png", embedded, None)


def test_of_a_run_that_moved_it_is_the_checkpoint_that_made_the_features(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("{evaluation: {checkpoint: last}}", encoding="utf-8")
    for name in ("best", "last"):
        (tmp_path / f"checkpoints/{name}.ckpt").touch()
        assert _checkpoint_file(f"/gone/{name}.ckpt", str(tmp_path)).endswith(f"checkpoints/{name}.ckpt")
    assert _checkpoint_file("/gone/best.ckpt", None) == "/gone/best.ckpt"
