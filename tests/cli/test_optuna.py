"""Studies of Optuna: resumed, pruned, with failed trials, and without the extra."""

import json
import os
import signal
from pathlib import Path

import pytest
import ranks
from conftest import check_mistake, command, config
from sweep_runs import BATCHES, in_process, small, steps

from repel.cli import compare
from repel.engine import runs
from repel.engine.configs import to_container


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    """The killed trial's run goes on from its checkpoint as a new trial; in all there are as many as were asked for."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    from repel.cli import optuna_study as study

    folder = tmp_path / "sweep"
    options = ["-m", "sweep=optuna", *small(tmp_path), "sweep.trials=3", "callbacks.pruning=null"]
    status, first = in_process([*options, f"hydra.sweep.dir={folder}"], tmp_path, kill_at=3 * BATCHES + 1)
    assert status == -signal.SIGKILL
    assert len(first) == 3 * BATCHES + 1
    status, second = in_process([*options, f"sweep.resume={folder}"], tmp_path)
    assert status == 0
    assert len(second) == 3 * BATCHES  # an epoch of the second, two of the third
    made = study.load(folder).trials
    assert [trial.state.name for trial in made] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert made[1].params == made[2].params
    assert len({tuple(trial.params.values()) for trial in made}) == 3
    found = compare.read(folder)
    assert [run.state for run in found] == ["finished"] * 3
    done = [json.loads((run.folder / "environment.json").read_text())["objective"] for run in found]
    assert [trial.value for trial in made if trial.value is not None] == done
    assert max(done) == study.load(folder).best_value  # validation, as train.py returns it, and more is better
    status, third = in_process([*options, "sweep.trials=4", f"sweep.resume={folder}"], tmp_path)
    assert (status, len(third)) == (0, 2 * BATCHES)


def make_study(folder: Path, params: dict[str, float], values: list[float]) -> None:
    """A study with one finished trial of the given values by epoch, and one that runs with the given parameters."""
    import optuna

    folder.mkdir()
    made = optuna.create_study(
        study_name="sweep", storage=f"sqlite:///{folder / 'study.db'}", direction="maximize",
    )  # fmt: skip
    for running in (False, True):
        trial = made.ask()
        for key, value in params.items():
            trial.suggest_float(key, value, value)
        for epoch, value in enumerate(() if running else values):
            trial.report(value, epoch)
        if not running:
            made.tell(trial, max(values))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_does_worse_is_pruned_and_ends_well(tmp_path, devices):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    from repel.cli import optuna_study as study
    from repel.engine.launch import NEW
    from repel.report.evaluate import finish

    folder = tmp_path / "sweep"
    make_study(folder, {"optimizer.lr": 0.001}, [0.0, 0.0, 1.1, 1.1])  # accuracies that nothing reaches
    cfg = config(*small(tmp_path), "evaluators=[knn]", "sweep=optuna", "optimizer.lr=0.001", "trainer.max_epochs=4",
                 "callbacks.pruning.pruner.n_startup_trials=1", "callbacks.pruning.pruner.n_warmup_steps=1",
                 f"trainer.devices={devices}")  # fmt: skip
    runs.create(folder / "0", to_container(cfg), ["optimizer.lr=1e-3", "sweep=optuna"])
    assert ranks.end(ranks.start(folder / "0", devices, NEW)) == [0] * devices
    assert steps(folder / "0") == list(range(3 * BATCHES))
    assert runs.mark_finished(folder / "0", finish(cfg, folder / "0", None)) is not None
    environment = runs.read_environment(folder / "0")
    assert (environment["outcome"], environment["pruned_after_epoch"]) == ("pruned", 3)
    assert json.loads((folder / "0/metrics.json").read_text())["test/knn_top1"] > 0
    trial = study.load(folder).trials[-1]
    assert list(trial.intermediate_values) == [0, 1, 2]
    assert trial.user_attrs == {"pruned": True}


@pytest.mark.slow
def test_without_the_extra_there_is_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\nsys.modules['hydra_plugins'] = types.ModuleType('hydra_plugins')\n"
        "sys.modules['hydra_plugins'].__path__ = []\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = command("train.py", "-m", "sweep=optuna", cwd=tmp_path, PYTHONPATH=path)
    check_mistake(result, ["sweep=optuna", "pip install -e '.[optuna]'"])


@pytest.mark.slow
def test_a_failed_trial_does_not_end_the_study(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    result = command("train.py", "sweep=optuna", "sweep.trials=2", "optimizer.lr=-1", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: optimizer.lr must be a number > 0") == 2
