"""scripts/benchmark_training.py: what it reads of a run, and what it makes of several."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT

COMMAND = """
import json, sys
from pathlib import Path
metrics = json.loads({metrics!r})
run = Path("runs/train/now")
run.mkdir(parents=True)
(run / "metrics.json").write_text(json.dumps(metrics))
file = sys.argv[-1].partition("file:")[2].rstrip("}}")
Path(file).write_text(json.dumps({{"wall": 2.0, "cpu": float(sys.argv[1].partition("=")[2])}}))
sys.exit({status})
"""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmark_training")


def checkout(folder: Path, metrics: dict, status: int = 0) -> Path:
    """One whose train.py writes these metrics at once."""
    folder.mkdir()
    (folder / "train.py").write_text(COMMAND.format(metrics=json.dumps(metrics), status=status), encoding="utf-8")
    return folder


def test_the_accuracy_is_that_of_the_last_epoch_in_both_checkouts(script, tmp_path):
    python = Path(sys.executable)
    old = checkout(tmp_path / "old", {"test/knn_top1": 0.5, "test/last_knn_top1": 0.75})
    new = checkout(tmp_path / "new", {"test/knn_top1": 0.875})
    assert script.train(old, python, 1, ["seed=3"]) == (2.0, 3.0, 0.75)
    assert script.train(new, python, 1, ["seed=4"]) == (2.0, 4.0, 0.875)
    with pytest.raises(SystemExit, match="ended with 3"):
        script.train(checkout(tmp_path / "failing", {}, status=3), python, 1, ["seed=3"])


def test_ratios_are_of_runs_of_one_seed(script):
    old, new = ([script.Run(*run) for run in runs] for runs in (
        [(100, 150, 0.84), (80, 160, 0.85), (90, 150, 0.83)], [(50, 75, 0.85), (60, 120, 0.84), (36, 75, 0.86)],
    ))  # fmt: skip
    assert script.row(2, old[1], new[1]) == "| 2 | 80.0 | 160.0 | 0.8500 | 60.0 | 120.0 | 0.8400 | 0.75 | 0.75 |\n"
    text = script.summary(old, new)
    assert "0.50 (0.40 to 0.75) of the training time, 0.50 (0.50 to 0.75) of the CPU time" in text
    assert "0.8400 and 0.8300 then, 0.8500 and 0.8400 now" in text


def test_the_clock_runs_from_the_first_step_to_the_end_of_the_last(script, tmp_path, monkeypatch):
    clock = importlib.import_module("_training_clock")
    times = iter([(10.0, 1.0), (11.0, 2.0), (14.0, 5.5)])
    monkeypatch.setattr(clock, "_now", lambda: next(times))
    watch = clock.TrainingClock(str(tmp_path / "clock.json"))
    watch.on_train_start()
    for _ in range(2):
        watch.on_train_batch_end()
    watch.on_train_end()  # after a validation, which is no longer counted
    assert json.loads((tmp_path / "clock.json").read_text()) == {"wall": 4.0, "cpu": 4.5}
