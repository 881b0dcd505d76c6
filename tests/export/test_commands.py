"""The commands that export: mistakes, folders in use, what they print."""

import json
import sys

import pytest
from conftest import check_mistake, command, thinned
from export_runs import checkpoint, folder_data

from repel.engine.pretrained import find_checkpoint
from repel.export import export as exports
from repel.export.embed import embed
from repel.export.export import export

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


@pytest.mark.parametrize("typed", thinned(MISTAKES, 3))
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("config", "asked", "file"),
    [
        ("evaluation: {checkpoint: last}", None, "last"),
        ("evaluation: {checkpoint: best}", None, "best"),
        ("evaluation: {k: 20}", None, "best"),  # a run from before evaluation.checkpoint
        ("evaluation: {checkpoint: last}", "best", "best"),
    ],
)
def test_what_is_exported_is_the_headline(tmp_path, config, asked, file):
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (tmp_path / "checkpoints").mkdir()
    for name in ("last", "best"):
        (tmp_path / f"checkpoints/{name}.ckpt").touch()
    assert find_checkpoint(str(tmp_path), asked) == tmp_path / f"checkpoints/{file}.ckpt"
