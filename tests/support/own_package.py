"""A user's own package in an empty folder: the one of docs/adding.md, with a reader besides."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from pages import NEW_FILE

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
OWN_PARTS = ["encoder=tiny", "loss=margin_ratio", "negatives=power", "data=stripes"]
QUICK = ["data.batch_size=16", "trainer.max_epochs=1", "head.out_features=4", "callbacks.pairs=null",
         "evaluators=[knn]", "evaluation.map=null", "trainer.accelerator=cpu"]  # fmt: skip


@pytest.fixture
def own_package(tmp_path) -> Path:
    """The package of docs/adding.md with a reader besides, its configs next to it, and nothing else."""
    files = dict(NEW_FILE.findall((ROOT / "docs/adding.md").read_text(encoding="utf-8")))
    files |= {"mine/data.py": READER, "conf/data/stripes.yaml": yaml.safe_dump(STRIPES, sort_keys=False)}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path
