"""The training loss of nine presets, step by step, is the one that the first edition (commit 3336279) had.

tests/support/same_curves.py compares two checkouts bit for bit on one machine; this holds the same across machines,
which round differently.

    python tests/commands/test_recorded_curves.py FILE      records the curves of the repel that is importable
"""

import csv
import json
import sys
from pathlib import Path

import pytest
from conftest import command, run_folder

CURVES = Path(__file__).parents[1] / "runs/curves.json"
OPTIONS = ["encoder.width=4", "head.out_features=8", "data.batch_size=16", "evaluators=[]", "evaluation.map=null",
           "data.val_fraction=0.02", "trainer.max_epochs=5", "trainer.limit_train_batches=4",
           "trainer.log_every_n_steps=1", "callbacks.pairs=null", "callbacks.knn=null", "callbacks.monitor=null",
           "logger.tensorboard=null", "trainer.check_val_every_n_epoch=5"]  # fmt: skip
PRESETS = {
    "default": [],
    "moco": ["experiment=moco"],
    "hcl": ["experiment=hcl"],
    "swav": ["experiment=swav"],
    "byol": ["experiment=byol", "anneal.values=null"],  # whose momentum was constant then
    "barlow": ["experiment=barlow"],
    "supcon": ["experiment=supcon"],
    "mixed": ["negatives=mixed"],
    "multi_crop": ["views=multi_crop"],
}


def curve(name: str, folder: Path) -> list[float]:
    """The loss of each of the 20 steps."""
    result = command("train.py", *PRESETS[name], *OPTIONS, cwd=folder, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    with (run_folder(result, folder) / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_the_curve_is_the_recorded_one(name, tmp_path):
    recorded = json.loads(CURVES.read_text(encoding="utf-8"))[name]
    assert len(recorded) == 20
    assert curve(name, tmp_path) == pytest.approx(recorded, rel=1e-3)


if __name__ == "__main__":
    import tempfile

    folder = Path(tempfile.mkdtemp())
    found = {name: curve(name, folder) for name in PRESETS}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
