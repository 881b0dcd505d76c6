"""embed.py: features of a set, in order, with names, splits and classes."""

import json

import numpy as np
import pytest
import torch
from conftest import config, make_folder
from export_runs import checkpoint, folder_data, index

from repel.engine import checkpoint_io
from repel.engine.build import build_data
from repel.engine.pretrained import load_pretrained
from repel.evaluation.features import encode
from repel.export.embed import embed
from repel.images.decode import decode

CPU = torch.device("cpu")


def test_features_are_those_of_encode_with_names_splits_and_classes(run, pictures, done):
    out = done(embed, f"ckpt={run}", *folder_data(pictures))
    rows, features = index(out), np.load(out / "features.npy")
    assert [row["row"] for row in rows] == [str(i) for i in range(11)]
    names = [f"train/{name}/{i:03d}.png" for name in ("green", "red") for i in range(4)]
    names += [f"test/green/{i:03d}.png" for i in range(3)]
    assert [row["file"] for row in rows] == names
    assert [row["split"] for row in rows] == ["train"] * 8 + ["test"] * 3
    assert [row["label"] for row in rows] == ["green"] * 4 + ["red"] * 4 + ["green"] * 3
    assert features.dtype == np.float32
    trained = load_pretrained(str(run), None)
    pixels = torch.from_numpy(np.stack([decode(pictures / name, 28, 1) for name in names]))  # each by its own name
    with torch.no_grad():
        expected = trained.encoder(trained.normalize(pixels))
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(torch.from_numpy(features), expected)
    record = json.loads((out / "embedding.json").read_text())
    assert record["checkpoint"] == str(run / "checkpoints/best.ckpt")
    assert (record["epoch"], record["step"], record["images"]) == (3, 7, 11)
    assert (record["image_size"], record["mean"], record["std"]) == (28, [0.286], [0.353])
    assert record["layers"] == {"h": {"file": "features.npy", "features": 32}}


def test_the_runs_own_data_whole_before_anything_is_held_out(run, done):
    out = done(embed, f"ckpt={run}")
    rows, features = index(out), np.load(out / "features.npy")
    assert len(rows) == len(features) == 8000
    assert (rows[12]["file"], rows[6001]["file"]) == ("train/000012", "test/000001")
    data, trained = build_data(config()), load_pretrained(str(run), None)
    test = data.read().test
    expected, _ = encode(trained.encoder, test, data.normalize, CPU)
    assert np.array_equal(features[6000:], expected.numpy())
    assert [row["label"] for row in rows[6000:6003]] == [data.read().classes[y] for y in test.labels[:3]]


def test_both_layers_and_the_last_checkpoint(run, pictures, done):
    what = [f"ckpt={run}", *folder_data(pictures), "checkpoint=last"]
    both = done(embed, *what, "layer=both")
    h, z = (np.load(both / f"features_{layer}.npy") for layer in "hz")
    assert (h.shape, z.shape) == ((11, 32), (11, 6))
    with torch.no_grad():
        expected = load_pretrained(str(run / "checkpoints/last.ckpt"), None).head(torch.from_numpy(h))
    torch.testing.assert_close(torch.from_numpy(z), expected)
    best = np.load(done(embed, *what[:-1], name="best") / "features.npy")
    assert abs(best - h).max() > 1e-3
    assert np.array_equal(np.load(done(embed, *what, "layer=z", name="z") / "features.npy"), z)


def test_parquet_holds_what_npy_holds(run, pictures, done):
    import pyarrow.parquet as pq

    what = [f"ckpt={run}", *folder_data(pictures), "layer=both"]
    table = pq.read_table(done(embed, *what, "format=parquet") / "features.parquet")
    npy = done(embed, *what, name="npy")
    assert table.column_names == ["row", "file", "split", "label", "h", "z"]
    for layer in ("h", "z"):
        made = np.stack(table[layer].to_numpy())
        assert made.dtype == np.float32
        assert np.array_equal(made, np.load(npy / f"features_{layer}.npy"))
    assert [{k: str(v) for k, v in row.items() if k not in "hz"} for row in table.to_pylist()] == index(npy)


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_a_flat_folder_with_broken_files(run, tmp_path, done, in_memory):
    make_folder(tmp_path / "flat", ["."], 6)
    (tmp_path / "flat/002.png").write_bytes(b"no image")
    (tmp_path / "flat/005.png").write_bytes(b"")
    typed = [f"ckpt={run}", *folder_data(tmp_path / "flat", f"data.in_memory={in_memory}", "data.workers=0")]
    with pytest.raises(Exception, match=r"002\.png.*data\.on_error=skip") as caught:
        done(embed, *typed, name="raised")
    assert type(caught.value).__name__ in ("ValueError", "UnreadableSample")
    out = done(embed, *typed, "data.on_error=skip")
    rows = index(out)
    assert [row["file"] for row in rows] == ["000.png", "001.png", "003.png", "004.png"]
    assert [row["row"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["label"] for row in rows} == {""}
    assert np.load(out / "features.npy").shape == (4, 32)
    skipped = (out / "skipped.txt").read_text().splitlines()
    assert [line.split(": ")[0].rsplit("/", 1)[1] for line in skipped] == ["002.png", "005.png"]
    assert "not an image" in skipped[0]


def test_names_that_are_no_utf8_keep_their_bytes(run, tmp_path, done):
    make_folder(tmp_path / "flat", ["."], 1)
    odd = b"line\nbreak \xff,.png"
    (tmp_path / "flat/000.png").rename(tmp_path / "flat" / odd.decode(errors="surrogateescape"))
    what = [f"ckpt={run}", *folder_data(tmp_path / "flat")]
    assert index(done(embed, *what))[0]["file"].encode(errors="surrogateescape") == odd
    assert (done(embed, *what, "format=parquet", name="parquet") / "features.parquet").is_file()


@pytest.mark.slow
def test_weights_are_not_downloaded_to_be_overwritten(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "run", "encoder=resnet18", "encoder.stem=imagenet", "data.channels=3",
                        "data.mean=[0,0,0]", "data.std=[1,1,1]")  # fmt: skip
    path = folder / "checkpoints/best.ckpt"
    contents = checkpoint_io.load(path)
    contents["config"]["encoder"]["weights"] = "DEFAULT"
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(contents, path)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    assert load_pretrained(str(folder), None).encoder.out_features == 512
