"""Parts of a user's own package, outside the checkout, are trained, resumed, evaluated and exported."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, check_mistake, command, run_folder
from pages import NEW_FILE
from PIL import Image

READER = '''
import torch

from repel.data.samples import Splits
from repel.images.memory import Images


def stripes(each):
    """Two classes of images, with horizontal and with vertical stripes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 100, (2 * each, 1, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:each, :, ::2] += 100
    pixels[each:, :, :, ::2] += 100
    return Splits(Images(pixels, torch.arange(2).repeat_interleave(each)), classes=["flat", "tall"])
'''
STRIPES = {
    "defaults": ["_base"], "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.2],
    "datamodule": {"read": {"_target_": "mine.data.stripes", "_partial_": True, "each": 60}},
}  # fmt: skip
OWN = ["encoder=tiny", "loss=margin_ratio", "negatives=power", "data=stripes"]
QUICK = ["data.batch_size=16", "trainer.max_epochs=1", "head.out_features=4", "callbacks.pairs=null",
         "evaluators=[knn]", "evaluation.map=null", "trainer.accelerator=cpu"]  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """The package of docs/adding.md with a reader besides, its configs next to it, and nothing else."""
    files = dict(NEW_FILE.findall((ROOT / "docs/adding.md").read_text(encoding="utf-8")))
    files |= {"mine/data.py": READER, "conf/data/stripes.yaml": yaml.safe_dump(STRIPES, sort_keys=False)}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path


def train_further(run: Path, epochs: int) -> None:
    """As if the run had been stopped before so many epochs were done."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["trainer"]["max_epochs"] = epochs
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


@pytest.mark.slow
def test_own_parts_train_on_two_ranks_and_are_resumed_evaluated_and_exported(folder):
    own = "--config-dir=conf"
    result = command("train.py", own, *OWN, *QUICK, "trainer.devices=2", cwd=folder)
    assert result.returncode == 0, result.stderr
    run = run_folder(result, folder)
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["train/steps"] == 6

    train_further(run, 2)
    result = command("train.py", f"resume={run}", cwd=folder)
    check_mistake(result, ["_target_=mine.", f"--config-dir={folder / 'conf'}"])
    result = command("train.py", own, f"resume={run}", cwd=folder)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["train/steps"] == 12

    other = folder / "elsewhere"  # the package is found beside the folder of configs
    other.mkdir()
    result = command("evaluate.py", f"ckpt={run}", "evaluators=[knn]", cwd=other)
    check_mistake(result, ["_target_=mine.", "add --config-dir=DIR"])
    result = command("evaluate.py", "--config-dir=../conf", f"ckpt={run}", "evaluators=[knn]", "layers=[h]", cwd=other)
    assert result.returncode == 0, result.stderr
    found = json.loads((run_folder(result, other) / "metrics.json").read_text(encoding="utf-8"))
    assert found["test/knn_top1"] == metrics["test/knn_top1"]

    result = command("embed.py", own, f"ckpt={run}", "out=features", cwd=folder)
    assert result.returncode == 0, result.stderr
    Image.new("L", (8, 8)).save(folder / "query.png")
    result = command("scripts/search.py", "query.png", "features", cwd=folder)
    check_mistake(result, ["_target_=mine.", "add --config-dir=DIR"])
    result = command("scripts/search.py", "query.png", "features", "--config-dir=conf", cwd=folder)
    assert result.returncode == 0, result.stderr

    result = command("export.py", own, f"ckpt={run}", "format=[safetensors]", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "class Tiny" in (run_folder(result, folder) / "load_encoder.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_name_typed_without_a_yaml(folder):
    """One's own class on the command line; a name of it that is not there is named."""
    typed = ["encoder._target_=mine.parts.Tiny", *QUICK, "evaluators=[]", "trainer.limit_train_batches=1"]
    result = command("train.py", *typed, cwd=folder)
    assert result.returncode == 0, result.stderr
    check_mistake(command("train.py", *typed, "encoder._target_=mine.parts.Tyni", cwd=folder), ["has no Tyni"])
    check_mistake(command("train.py", *typed, "encoder._target_=yours.Tiny", cwd=folder), ["no package yours"])


def test_a_choice_of_ones_own_is_suggested(folder):
    check_mistake(command("train.py", "--config-dir=conf", "encoder=tinny", cwd=folder), ["did you mean tiny?"])
    check_mistake(command("train.py", "--config-dir=conf", "encoder=tiny", "encoder.width=x", cwd=folder),
                  ["encoder.width must be a whole number"])  # fmt: skip
