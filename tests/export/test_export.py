"""An encoder to take away and use: features of a set, files for other programs, search."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composing import composed
from conftest import check_mistake, command, config, make_folder
from omegaconf import OmegaConf
from PIL import Image

from repel.cli.resume import prepare_output
from repel.engine import checkpoint_io
from repel.engine.build import build_data, build_module
from repel.engine.configs import to_container
from repel.engine.pretrained import load_pretrained
from repel.evaluation.features import encode
from repel.export import export as exports
from repel.export.embed import embed
from repel.export.export import _check_difference, export
from repel.export.search import nearest_matches, open_folder, query_feature
from repel.export.source import recipe
from repel.images.decode import decode

CPU = torch.device("cpu")


def checkpoint(folder: Path, *overrides: str, name: str = "best", epoch: int = 2) -> Path:
    """A run folder with a checkpoint, as training leaves it, whose batch norms have seen something."""
    cfg = config("head.out_features=6", *overrides)
    module = build_module(cfg)
    size, channels = cfg.data.image_size, cfg.data.channels
    for _ in range(3):
        module.head(module.encoder(torch.randn(8, channels, size, size) * 2 + 1))
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    contents = {"config": to_container(cfg), "state_dict": module.state_dict(), "epoch": epoch, "global_step": 7}
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(contents, folder / f"checkpoints/{name}.ckpt")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on the bundled images."""
    folder = checkpoint(tmp_path_factory.mktemp("run"), "encoder.width=4")
    return checkpoint(folder, "encoder.width=4", "seed=2", name="last", epoch=4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two splits of two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    make_folder(folder / "train", ["red", "green"], 4)
    make_folder(folder / "test", ["green"], 3, size=(20, 9))
    for number, file in enumerate(sorted(folder.rglob("*.png"))):  # coarser than noise, so that they look unlike
        coarse = np.random.default_rng(number).integers(0, 256, (3, 3, 3), np.uint8)
        Image.fromarray(coarse).resize(Image.open(file).size, Image.Resampling.NEAREST).save(file)
    return folder


@pytest.fixture
def done(monkeypatch, tmp_path):
    """What a command does, in this process: done(embed, "ckpt=...") -> its folder."""

    def call(task, *typed: str, name: str = "out") -> Path:
        job = SimpleNamespace(overrides=SimpleNamespace(task=OmegaConf.create(list(typed))))
        monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: job)
        cfg, folder = composed(task.__name__, list(typed)), tmp_path / name  # interpolations stay, as in the command
        folder.mkdir()
        prepare_output(cfg, folder)
        task(cfg, folder, *([list(typed)] if task is embed else []))
        return folder

    return call


def folder_data(root: Path, *more: str) -> list[str]:
    return ["data=image_folder", f"data.root={root}", *more]


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------------------- embed


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


def test_weights_are_not_downloaded_to_be_overwritten(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "run", "encoder=resnet18", "encoder.stem=imagenet", "data.channels=3",
                        "data.mean=[0,0,0]", "data.std=[1,1,1]")  # fmt: skip
    path = folder / "checkpoints/best.ckpt"
    contents = checkpoint_io.load(path)
    contents["config"]["encoder"]["weights"] = "DEFAULT"
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(contents, path)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    assert load_pretrained(str(folder), None).encoder.out_features == 512


# --------------------------------------------------------------------------------------------------------------- export

ENCODERS = {
    "small": ["encoder=small", "encoder.width=4"],
    "resnet18_small": ["encoder=resnet18", "data=cifar10", "data.image_size=16"],
    "resnet18_imagenet": ["encoder=resnet18", "encoder.stem=imagenet"],  # one channel
    "timm": ["encoder=timm", "encoder.name=vit_tiny_patch16_224", "data.image_size=16", "+encoder.options.img_size=16",
             "+encoder.options.patch_size=8", "+encoder.options.depth=2", "+encoder.options.embed_dim=24"],
}  # fmt: skip

ELSEWHERE = """
import importlib.abc, json, runpy, sys
from pathlib import Path

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "repel":
            raise ImportError("repel is not to be had")

sys.meta_path.insert(0, Blocked())
try:
    import repel
    sys.exit("repel can be imported: this shows nothing")
except ImportError:
    pass

import numpy as np, onnxruntime, torch
from safetensors import safe_open

for folder in map(Path, sys.argv[1:]):
    module = runpy.run_path(str(folder / "load_encoder.py"))
    images = module["normalize"](torch.from_numpy(np.load(folder / "images.npy")))
    with torch.no_grad():
        made = module["load_encoder"]()(images)
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    (by_onnx,) = session.run(None, {"images": images.numpy()})
    with safe_open(folder / "encoder.safetensors", "pt") as file:
        (folder / "metadata.json").write_text(json.dumps(file.metadata()))
    read = module["read"](folder / "image.png").numpy()
    np.savez(folder / "made.npz", safetensors=made.numpy(), onnx=by_onnx, read=read)
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> dict[str, Path]:
    """Each encoder exported, and its features computed by a process that cannot import repel."""
    root, folders = tmp_path_factory.mktemp("elsewhere"), {}
    pixels = torch.randint(0, 256, (30, 37, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, overrides in ENCODERS.items():
        run, out = checkpoint(root / f"{name}_run", *overrides), root / name
        out.mkdir()
        export(config(f"ckpt={run}", "format=[safetensors,onnx]", name="export"), out)
        data = checkpoint_io.load(run / "checkpoints/best.ckpt")["config"]["data"]
        images = torch.randint(0, 256, (5, data["channels"], data["image_size"], data["image_size"]), dtype=torch.uint8)
        np.save(out / "images.npy", images.numpy())
        Image.fromarray(pixels.numpy()).save(out / "image.png")
        folders[name] = out
    paths = [str(folder) for folder in folders.values()]
    result = subprocess.run([sys.executable, "-c", ELSEWHERE, *paths], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folders


@pytest.mark.parametrize("name", ENCODERS)
def test_exports_agree_in_a_process_without_repel(elsewhere, name):
    folder = elsewhere[name]
    trained = load_pretrained(str(folder.with_name(f"{name}_run")), None)
    images = torch.from_numpy(np.load(folder / "images.npy"))
    with torch.no_grad():
        expected = trained.encoder(trained.normalize(images)).numpy()
    scale = abs(expected).max()
    assert expected.std() > 0.01 * scale  # they differ from one another
    made = np.load(folder / "made.npz")
    for format in ("safetensors", "onnx"):
        assert made[format].shape == (5, trained.encoder.out_features)
        assert abs(made[format] - expected).max() <= 1e-5 * scale, format
    data = trained.config["data"]
    plainly = decode(folder / "image.png", data["image_size"], data["channels"]).astype(int)
    assert abs(made["read"][0].astype(int) - plainly).max() <= 2  # Pillow's two ways of cutting out a square
    metadata = json.loads((folder / "metadata.json").read_text())
    for key in ("channels", "image_size", "mean", "std"):
        assert json.loads(metadata[key]) == data[key]
    assert json.loads(metadata["features"]) == trained.encoder.out_features
    files = {path.name for path in folder.iterdir()} - {"images.npy", "image.png", "made.npz", "metadata.json"}
    assert files == {"encoder.safetensors", "encoder.onnx", "load_encoder.py", "README.md"}


def test_timm_and_torchvision_load_the_file_by_themselves(elsewhere):
    import timm
    from safetensors.torch import load_file
    from torchvision.models import get_model

    options = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 24}
    path = str(elsewhere["timm"] / "encoder.safetensors")
    by_timm = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, in_chans=1, checkpoint_path=path, **options
    ).eval()
    by_torchvision = get_model("resnet18")
    by_torchvision.fc = torch.nn.Identity()
    by_torchvision.conv1 = torch.nn.Conv2d(1, 64, 7, 2, padding=3, bias=False)
    by_torchvision.load_state_dict(load_file(elsewhere["resnet18_imagenet"] / "encoder.safetensors"))
    for name, model in (("timm", by_timm), ("resnet18_imagenet", by_torchvision.eval())):
        trained = load_pretrained(str(elsewhere[name].with_name(f"{name}_run")), None)
        images = trained.normalize(torch.from_numpy(np.load(elsewhere[name] / "images.npy")))
        with torch.no_grad():
            torch.testing.assert_close(model(images), trained.encoder(images))


def test_onnx_that_normalises_and_validation_images(run, done):
    import onnxruntime

    out = done(export, f"ckpt={run}", "format=[onnx]", "normalize=true", "compare_on=data")
    assert {p.name for p in out.iterdir()} == {"config.yaml", "environment.json", "encoder.onnx", "README.md"}
    assert "validation split" in (out / "README.md").read_text()
    images = torch.rand(3, 1, 28, 28)
    (made,) = onnxruntime.InferenceSession(str(out / "encoder.onnx")).run(None, {"images": images.numpy()})
    trained = load_pretrained(str(run), None)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made), trained.encoder(trained.normalize(images)))


def test_onnx_needs_no_source(run, done, monkeypatch):
    monkeypatch.setattr(exports, "recipe", lambda *args: pytest.fail("the source was asked for"))
    assert (done(export, f"ckpt={run}", "format=[onnx]") / "encoder.onnx").is_file()


def test_a_file_that_differs_is_not_left(run, done, tmp_path, monkeypatch):
    write = exports._write_safetensors

    def damaged(folder, trained, how):
        next(iter(how.network.parameters())).data.mul_(1.001)
        return write(folder, trained, how)

    monkeypatch.setattr(exports, "_write_safetensors", damaged)
    with pytest.raises(RuntimeError, match=r"encoder\.safetensors differs.*no file is written"):
        done(export, f"ckpt={run}")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"config.yaml", "environment.json"}


def test_the_difference_is_relative_and_no_number_is_none():
    expected = torch.tensor([[100.0, 1.0]])
    assert _check_difference("x", expected + 1e-4, expected) == pytest.approx(1e-6, rel=0.1)
    assert _check_difference("x", torch.zeros(2), torch.zeros(2)) == 0
    for made in (expected + 0.01, expected * torch.nan):
        with pytest.raises(RuntimeError, match="differs"):
            _check_difference("x", made, expected)


OWN = """
import torch
from torch import nn
{more}

SCALE = 3.0
UNUSED = 4.0


def doubled(x):
    return SCALE * x


@torch.no_grad
def unused(x):
    return UNUSED * x


class Tiny(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.out_features, self.layer = width, nn.Linear(2, width)

    def forward(self, x):
        return {call}(self.layer(x))
"""


def test_an_encoder_of_ones_own_goes_with_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_encoder.py").write_text(OWN.format(more="", call="doubled"))
    (tmp_path / "tied_encoder.py").write_text(
        OWN.format(more="from repel.model.heads import check_size", call="check_size")
    )
    import own_encoder
    import tied_encoder

    encoder = own_encoder.Tiny(3)
    how = recipe(encoder, {"_target_": "own_encoder.Tiny", "width": 3})
    assert "unused" not in how.source.lower()
    names: dict = {}
    exec(how.source, names)
    built = names["build"]()
    built.load_state_dict(how.network.state_dict())
    x = torch.randn(4, 2)
    assert torch.equal(built(x), encoder(x))
    with pytest.raises(ValueError, match=r"tied_encoder\.Tiny.*format=\[onnx\]"):
        recipe(tied_encoder.Tiny(3), {"_target_": "tied_encoder.Tiny", "width": 3})


# --------------------------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_an_image_of_the_set_is_its_own_nearest(run, pictures, done, format):
    out = done(embed, f"ckpt={run}", *folder_data(pictures), f"format={format}", "layer=both")
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


# ------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES = {  # what is typed -> what the line must hold
    "embed.py": ["ckpt is not set"],
    "embed.py ckpt=nowhere": ["nowhere", "not a run folder"],
    "embed.py ckpt=x layer=y": ["layer", "h or z or both", "'y'"],
    "embed.py ckpt=x format=csv": ["format", "npy or parquet"],
    "embed.py ckpt=x checkpoint=first": ["checkpoint", "best or last"],
    "embed.py ckpt=x data=image_folder": ["data.root is not set"],
    "embed.py ckpt=x accelerator=tpu": ["accelerator", "cpu"],
    "embed.py ckpt=x laier=h": ["laier", "did you mean layer?"],
    "export.py ckpt=nowhere": ["nowhere", "not a run folder"],
    "export.py ckpt=x format=onnx": ["format", "[safetensors]"],
    "export.py ckpt=x format=[]": ["format", "[safetensors]"],
    "export.py ckpt=x format=[onnx,tflite]": ["format", "safetensors, onnx"],
    "export.py ckpt=x compare_on=train": ["compare_on", "random or data"],
    "export.py ckpt=x normalize=yes": ["normalize", "true or false"],
    "export.py ckpt=x normalize=true": ["normalize=true", "onnx"],
    "scripts/search.py": ["QUERY.png EMBED_FOLDER"],
    "scripts/search.py nowhere.png .": ["nowhere.png"],
    "scripts/search.py image.png . kk=3": ["kk", "did you mean k?"],
    "scripts/search.py image.png . k=0": ["k must be", "'0'"],
    "scripts/search.py image.png .": ["embedding.json", "embed.py"],
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistakes_get_one_line_and_leave_nothing(typed, tmp_path):
    (tmp_path / "image.png").write_bytes(b"")
    script, *args = typed.split()
    check_mistake(command(script, *args, cwd=tmp_path), MISTAKES[typed])
    assert [p.name for p in tmp_path.rglob("*") if not p.is_dir()] == ["image.png"]


def test_later_mistakes(run, pictures, done, tmp_path, monkeypatch):
    own = folder_data(pictures)
    with pytest.raises(ValueError, match=r"data\.channels=3 data\.image_size=28"):
        done(embed, f"ckpt={run}", *own, "data.channels=3", "data.mean=[0,0,0]", "data.std=[1,1,1]", name="channels")
    with pytest.raises(ValueError, match=r"checkpoint=last.*leave it out"):
        done(embed, f"ckpt={run}/checkpoints/best.ckpt", "checkpoint=last", *own, name="file")
    only_last = checkpoint(tmp_path / "only_last", "encoder.width=4", name="last")
    with pytest.raises(ValueError, match="add checkpoint=last"):
        done(embed, f"ckpt={only_last}", *own, name="no_best")
    with pytest.raises(ValueError, match="no such folder"):
        done(embed, f"ckpt={run}", *folder_data(tmp_path / "gone"), name="gone_data")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"format=parquet needs pyarrow: pip install -e '\.\[parquet\]'"):
        done(embed, f"ckpt={run}", *own, "format=parquet", name="parquet")
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=r"needs onnxscript: pip install -e '\.\[export\]'"):
        done(export, f"ckpt={run}", "format=[onnx]", name="onnx")


def test_a_folder_in_use_is_left_as_it_is(run, tmp_path):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for script in ("embed.py", "export.py"):
        check_mistake(command(script, f"ckpt={run}", f"out={run}", cwd=tmp_path), [f"out={run}", "not empty"])
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_the_commands_themselves(run, pictures, tmp_path):
    result = command("embed.py", f"ckpt={run}", *folder_data(pictures), "out=features", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "run: features"
    environment = json.loads((tmp_path / "features/environment.json").read_text())
    assert environment["overrides"] == [f"ckpt={run}", *folder_data(pictures), "out=features"]
    result = command("export.py", f"ckpt={run}", "format=[safetensors,onnx]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, second, last = result.stdout.splitlines()  # and nothing from torch or onnx
    assert first.startswith("encoder.safetensors: ")
    assert second.startswith("encoder.onnx: ")
    assert (tmp_path / last.removeprefix("run: ") / "encoder.onnx").is_file()
    assert result.stderr == ""
