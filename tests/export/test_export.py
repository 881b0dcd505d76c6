"""export.py: files that other programs load, with the same features, and without this package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config, made_once
from export_runs import checkpoint
from PIL import Image

from repel.engine import checkpoint_io
from repel.engine.pretrained import load_pretrained
from repel.export import export as exports
from repel.export.comparison import check_difference
from repel.export.export import export
from repel.export.source import recipe
from repel.images.decode import decode
from repel.images.shapes import height_width

ENCODERS = {
    "small": ["encoder=small", "encoder.width=4", "data.image_size=[12,20]"],
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


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> dict[str, Path]:
    """Each encoder exported, and its features computed by a process that cannot import repel."""
    root = made_once(tmp_path_factory, "elsewhere", export_all)
    return {name: root / name for name in ENCODERS}


def export_all(root: Path) -> Path:
    folders = {}
    pixels = torch.randint(0, 256, (30, 37, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, overrides in ENCODERS.items():
        run, out = checkpoint(root / f"{name}_run", *overrides), root / name
        out.mkdir()
        export(config(f"ckpt={run}", "format=[safetensors,onnx]", name="export"), out)
        data = checkpoint_io.load(run / "checkpoints/best.ckpt")["config"]["data"]
        images = torch.randint(0, 256, (5, data["channels"], *height_width(data["image_size"])), dtype=torch.uint8)
        np.save(out / "images.npy", images.numpy())
        Image.fromarray(pixels.numpy()).save(out / "image.png")
        folders[name] = out
    paths = [str(folder) for folder in folders.values()]
    result = subprocess.run([sys.executable, "-c", ELSEWHERE, *paths], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return root


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert check_difference("x", expected + 1e-4, expected) == pytest.approx(1e-6, rel=0.1)
    assert check_difference("x", torch.zeros(2), torch.zeros(2)) == 0
    for made in (expected + 0.01, expected * torch.nan):
        with pytest.raises(RuntimeError, match="differs"):
            check_difference("x", made, expected)


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
