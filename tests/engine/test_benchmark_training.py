"""scripts/benchmark_training.py: what it reads of a run, and what it makes of several."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmark_training")


@pytest.mark.parametrize(("metrics", "top1"), [
    ({"test/knn_top1": 0.5, "test/last_knn_top1": 0.75}, 0.75),
    ({"test/knn_top1": 0.875, "test/best_knn_top1": 1}, 0.875),
])  # fmt: skip
def test_the_accuracy_is_that_of_the_last_epoch(script, monkeypatch, tmp_path, metrics, top1):
    """The first edition's test/knn_top1 was of the best checkpoint."""

    def finished(command, cwd, env, **_):
        assert command[0] == "python"
        assert command[-2:] == [str(tmp_path / "train.py"), "seed=3"]
        assert (env["OMP_NUM_THREADS"], env["PYTHONPATH"]) == ("2", str(tmp_path / "src"))
        Path(command[2]).write_text(json.dumps({"wall": 2.0, "cpu": 3.0}), encoding="utf-8")
        run = Path(cwd, "runs/train/now")
        run.mkdir(parents=True)
        (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script.subprocess, "run", finished)
    assert script.train(tmp_path, Path("python"), 2, ["seed=3"]) == (2.0, 3.0, top1)


def test_a_run_that_fails_is_shown(script, monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 3, "data     none\n", "error: no such loss\n")
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match=r"no such loss\nerror: python .*train.py seed=3 ended with 3"):
        script.train(tmp_path, Path("python"), 2, ["seed=3"])


def test_ratios_are_of_runs_of_one_seed(script):
    old, new = ([script.Run(*run) for run in runs] for runs in (
        [(100, 150, 0.84), (80, 160, 0.85), (90, 150, 0.83)], [(50, 75, 0.85), (60, 120, 0.84), (36, 75, 0.86)],
    ))  # fmt: skip
    assert script.row(2, old[1], new[1]) == "| 2 | 80.0 | 160.0 | 0.8500 | 60.0 | 120.0 | 0.8400 | 0.75 | 0.75 |\n"
    text = script.summary(old, new)
    assert "0.50 (0.40 to 0.75) of the training time, 0.50 (0.50 to 0.75) of the CPU time" in text
    assert "0.8400 and 0.8300 then, 0.8500 and 0.8400 now" in text


@pytest.mark.usefixtures("script")
def test_the_clock_runs_from_the_first_step_to_the_end_of_the_last(tmp_path, monkeypatch):
    clock = importlib.import_module("_training_clock")
    times = iter([(10.0, 1.0), (11.0, 2.0), (14.0, 5.5)])

    class TwoSteps:
        def __init__(self):
            self.callbacks = []

        def fit(self, module):
            [watch] = self.callbacks
            for hook in ("on_train_start", "on_train_batch_end", "on_train_batch_end", "on_train_end"):
                getattr(watch, hook)(self, module)  # a validation before the last one is no longer counted

    script = tmp_path / "train.py"
    script.write_text("import sys, _training_clock as c\nassert sys.argv[1:] == ['seed=1']\nc.Trainer().fit(None)\n")
    monkeypatch.setattr(clock, "_now", lambda: next(times))
    monkeypatch.setattr(clock, "Trainer", TwoSteps)
    monkeypatch.setattr(sys, "argv", ["_training_clock.py", str(tmp_path / "clock.json"), str(script), "seed=1"])
    clock.main()
    assert json.loads((tmp_path / "clock.json").read_text()) == {"wall": 4.0, "cpu": 4.5}
