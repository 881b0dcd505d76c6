"""Sweeps: the report's numbers by hand, interrupted sweeps that go on, studies of Optuna."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import ranks
import yaml
from conftest import ROOT, TINY, check_mistake, command, config, left_over, make_folder

from repel.cli import compare
from repel.cli.sweeps import identity, job_folder
from repel.engine import runs
from repel.engine.configs import to_container

sys.path.insert(0, str(ROOT / "scripts"))
import report as script

# ------------------------------------------------------------------------------------------------------ the report


def make_run(folder: Path, overrides: list[str], metrics: dict | None, outcome: str | None = "finished", curve=()):
    """A run's folder as train.py leaves it."""
    folder.mkdir(parents=True)
    seed = next((int(o.removeprefix("seed=")) for o in overrides if o.startswith("seed=")), 1)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "trainer": {}}))
    (folder / "environment.json").write_text(
        json.dumps({"overrides": overrides} | ({"outcome": outcome, "objective": 0.5} if outcome else {}))
    )
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if curve:
        rows = [f"{epoch},{9 * epoch},{value},1.0\n,,,2.0\n" for epoch, value in enumerate(curve)]
        (folder / "metrics.csv").write_text("epoch,step,val/knn_top1,train/loss\n" + "".join(rows))
    return folder


VALUES = {  # (loss, negatives) -> accuracy of seeds 1, 2, 3
    ("ntxent", "uniform"): (0.80, 0.82, 0.84),
    ("ntxent", "hcl"): (0.83, 0.83, 0.89),
    ("decoupled", "uniform"): (0.70, 0.60, 0.80),
}


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Three cells of three seeds; one run fails, one was interrupted, one is torn, two are missing."""
    number = 0
    for (loss, negatives), values in VALUES.items():
        for seed, value in enumerate(values, 1):
            overrides = [f"negatives={negatives}", f"loss={loss}", "trainer.max_epochs=3", f"seed={seed}"]
            metrics = {"test/knn_top1": value, "baseline/raw_knn_top1": 0.5, "val/knn_top1": 0.1, "val/loss": 2.0}
            make_run(tmp_path / str(number), overrides, metrics, curve=[value / 4, value / 2, value])
            number += 1
    common = ["loss=decoupled", "negatives=hcl", "trainer.max_epochs=3"]
    make_run(tmp_path / "9", [*common, "seed=1"], None, outcome=None)
    (make_run(tmp_path / "10", [*common, "seed=2"], None, outcome=None) / "error.txt").write_text("Traceback")
    torn = make_run(tmp_path / "11", [*common, "seed=3"], None)
    (torn / "environment.json").write_text('{"overrides": [')
    task = ["loss=ntxent,decoupled", "negatives=uniform,hcl,tilt", "trainer.max_epochs=3", "seed=1,2"]
    asked = {"hydra": {"sweeper": {"params": None}, "overrides": {"task": task}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(asked))
    return tmp_path


def test_numbers_of_the_report_equal_those_by_hand(sweep):
    script.report(sweep, ["test/knn_top1"], "negatives=uniform loss=ntxent")
    made = json.loads((sweep / "report.json").read_text())
    rows = {row["name"]: row["test/knn_top1"] for row in made["rows"]}
    reference, hcl = rows["negatives=uniform loss=ntxent"], rows["negatives=hcl loss=ntxent"]
    assert (reference["n"], reference["mean"], reference["std"]) == (3, pytest.approx(0.82), pytest.approx(0.02))
    assert hcl["mean"] == pytest.approx(0.85)
    assert hcl["std"] == pytest.approx(math.sqrt((0.02**2 + 0.02**2 + 0.04**2) / 2))
    # differences 0.03, 0.01, 0.05: mean 0.03, deviation 0.02, t(0.975, 2) = 4.302653
    assert hcl["difference"]["seeds"] == [1, 2, 3]
    assert hcl["difference"]["mean"] == pytest.approx(0.03)
    assert hcl["difference"]["half"] == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
    assert rows["negatives=hcl loss=decoupled"]["n"] == 0
    assert made["same"] == {"trainer.max_epochs": "3"}


def test_the_report_as_markdown(sweep):
    text = script.report(sweep, ["test/knn_top1"], "negatives=uniform loss=ntxent")
    lines = text.splitlines()
    assert lines[0] == "16 runs: 9 finished, 1 interrupted, 1 failed, 1 unreadable, 4 missing"
    assert (
        "| negatives=hcl loss=ntxent | 3 | 0.5000 ± 0.0000 | 0.8500 ± 0.0346 | +0.0300 [-0.0197, +0.0797], n = 3 |"
        in lines
    )
    assert "- interrupted: 9 loss=decoupled negatives=hcl seed=1" in lines
    assert "- failed: 10 loss=decoupled negatives=hcl seed=2" in lines
    assert {line for line in lines if line.startswith("- missing")} == {
        f"- missing: loss={loss} negatives=tilt seed={seed}" for loss in ("ntxent", "decoupled") for seed in (1, 2)
    }
    pivot = lines.index(r"| test/knn_top1: negatives \ loss | ntxent | decoupled |")
    assert lines[pivot + 2 :] == ["| uniform | 0.8200 ± 0.0200 | 0.7000 ± 0.1000 |", "| hcl | 0.8500 ± 0.0346 | - |"]
    assert (sweep / "report.md").read_text() == text
    for name in ("bars.png", "curves.png"):
        assert (sweep / name).read_bytes().startswith(b"\x89PNG")


def test_curves_are_means_over_the_epochs_that_all_seeds_have(sweep):
    cells, _ = compare.cells(compare.read(sweep))
    (sweep / "1/metrics.csv").write_text(
        "epoch,step,val/knn_top1,train/loss\n0,0,0.3,1\n1,9,0.5,1\n2,"
    )  # being written
    cell = next(c for c in cells if c.name == "negatives=uniform loss=ntxent")
    assert compare.curve(cell, "val/knn_top1") == {1: [0.2, 0.3, 0.21], 2: [0.4, 0.5, 0.42]}
    assert compare.curve(cell, "val/linear_top1") == {}


def test_any_folder_of_runs_and_any_metric(tmp_path, capsys, monkeypatch):
    """runs/train: another seed is the default's, of two equal runs the later counts, other commands' are left aside."""
    make_run(tmp_path / "2026-01-01_default", [], {"val/loss": 9.0, "test/knn_top1": 0.1})
    make_run(tmp_path / "2026-01-02_default", ["name=again"], {"val/loss": 3.0, "test/knn_top1": 0.2})
    make_run(tmp_path / "2026-01-03_default", ["seed=4"], {"val/loss": 5.0, "test/knn_top1": 0.3})
    (make_run(tmp_path / "evaluated", [], {"test/knn_top1": 0.9}) / "config.yaml").write_text("ckpt: x")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "metric=val/loss"])
    assert script.main() == 0
    assert "| (default) | 2 | 4.0000 ± 1.4142 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "words"),
    [(["metric=test/knn"], ["metric=test/knn", "test/knn_top1, val/knn_top1, val/loss"]),
     (["against=hcl"], ["fits no row"]),
     (["against=negatives=hcl"], ["fits 2 rows", "negatives=hcl loss=ntxent"]), (["metrics=x"], ["usage"])],
)  # fmt: skip
def test_mistakes_of_the_report_are_one_line(sweep, capsys, monkeypatch, typed, words):
    monkeypatch.setattr(sys, "argv", ["report.py", str(sweep), *typed])
    assert script.main() == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert all(word in line for word in words)


def test_a_report_before_anything_has_finished(tmp_path):
    with pytest.raises(ValueError, match="no runs"):
        script.report(tmp_path, ["test/knn_top1"], None)
    claimed = tmp_path / "0"
    runs.create(claimed, {"seed": 1, "trainer": {}}, ["seed=1"])
    assert script.report(tmp_path, ["test/knn_top1"], None).startswith("1 runs: 1 running")
    runs.unlock(claimed)
    assert script.report(tmp_path, ["test/knn_top1"], None).startswith("1 runs: 1 interrupted")


@pytest.mark.parametrize(
    ("freedom", "value"),
    [(1, 12.70620474), (2, 4.30265273), (3, 3.18244631), (9, 2.26215716), (29, 2.04522964), (100, 1.98397152)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, value):
    assert compare.t_quantile(freedom) == pytest.approx(value, rel=1e-8)


# ----------------------------------------------------------------------------------------------- interrupted sweeps


def test_a_jobs_identity_is_its_overrides_in_any_order():
    one = identity(["loss=ntxent", "optimizer.lr=1e-3", "seed=1"])
    assert one == identity(["seed=1", "optimizer.lr=0.001", "loss=ntxent", "sweep.resume=x", "sweep=grid"])
    assert one != identity(["loss=ntxent", "optimizer.lr=1e-3", "seed=2"])
    assert one != identity(["loss=ntxent", "optimizer.lr=1e-3"])
    assert identity(["a=true"]) != identity(["a=1"])


def test_jobs_find_their_folders_and_new_ones_a_free_number(tmp_path):
    for number in range(2):
        make_run(tmp_path / str(number), ["loss=ntxent", f"seed={number}"], None)
    (tmp_path / "2").mkdir()  # killed before it was claimed
    assert job_folder(None, str(tmp_path), 0, ["seed=1", "loss=ntxent"]) == "0"
    assert job_folder(str(tmp_path), str(tmp_path), 0, ["seed=1", "loss=ntxent"]) == "1"
    assert job_folder(str(tmp_path), str(tmp_path), 0, ["seed=7", "loss=ntxent"]) == "2"


BATCHES = 4  # an epoch


def run_train(arguments: list[str], cwd: str, log: str, kill_at: int | None, kill_in: str | None) -> None:
    """train.py in a process of its own, which kills itself with signal 9 after so many batches, or on a call."""
    import torch

    import repel.report.evaluate
    from repel.module import Contrastive

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def count(module, *args):
        with open(log, "a") as file:
            file.write(f"{module.seed} {module.trainer.global_step}\n")
        if kill_at and len(Path(log).read_text().splitlines()) == kill_at:
            die()

    torch.set_num_threads(1)
    Contrastive.on_train_batch_end = count
    if kill_in == "finish":
        repel.report.evaluate.finish = die
    if kill_in == "add_metrics":
        runs.add_metrics = die
    if kill_in == "claim":
        runs.write_environment = die
    sys.path.insert(0, str(ROOT))
    os.chdir(cwd)
    sys.argv = ["train.py", *arguments]
    from train import main

    main()


def in_process(arguments: list[str], cwd: Path, kill_at: int | None = None, kill_in: str | None = None):
    """Exit status, and (seed, optimiser steps done) after each batch that was trained."""
    log = cwd / "batches.txt"
    log.write_text("")
    arguments = ([str(a) for a in arguments], str(cwd), str(log), kill_at, kill_in)
    process = ranks.server.Process(target=run_train, args=arguments)
    process.start()
    process.join(180)
    return process.exitcode, [tuple(map(int, line.split())) for line in log.read_text().splitlines()]


def count(batches: list[tuple[int, int]]) -> dict[int, int]:
    """Seed -> batches trained."""
    return Counter(seed for seed, _ in batches)


def small(tmp_path: Path) -> list[str]:
    """Options of runs that take a second: images of one colour a class."""
    make_folder(tmp_path / "images", ["red", "green"], 60)
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12", "data.batch_size=8",
              "data.val_fraction=0.1"]  # fmt: skip
    tiny = [option for option in TINY if not option.startswith(("data.batch_size", "encoder.width"))]
    return [*tiny, "encoder.width=8", *source, f"trainer.limit_train_batches={BATCHES}", "logger.tensorboard=null"]


def steps(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_what_is_missing(tmp_path):
    """Nothing is run twice: by the batches that are trained, the folders and the history of each run."""
    options, folder = small(tmp_path), tmp_path / "sweep"
    # the second run is killed between two checkpoints
    status, batches = in_process(
        ["-m", *options, "seed=1,2,3", f"hydra.sweep.dir={folder}"], tmp_path, kill_at=3 * BATCHES + 2
    )
    assert status == -signal.SIGKILL
    assert count(batches) == {1: 2 * BATCHES, 2: BATCHES + 2}
    before = {path: path.stat().st_mtime_ns for path in (folder / "0").rglob("*") if path.is_file()}
    # in another order, with a run more, which shifts the others' numbers; it is killed before its first checkpoint
    resumed = ["-m", "seed=1,2,4,3", *reversed(options), f"sweep.resume={folder}"]
    status, batches = in_process(resumed, tmp_path, kill_at=BATCHES + 2)
    assert status == -signal.SIGKILL
    assert count(batches) == {2: BATCHES, 4: 2}
    status, batches = in_process(resumed, tmp_path)
    assert status == 0
    assert count(batches) == {4: 2 * BATCHES, 3: 2 * BATCHES}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = compare.read(folder)
    assert sorted((run.seed, run.state) for run in found) == [(seed, "finished") for seed in (1, 2, 3, 4)]
    assert all(steps(run.folder) == list(range(2 * BATCHES)) for run in found)
    assert script.report(folder, ["test/knn_top1"], None).startswith("4 runs: 4 finished\n")


@pytest.mark.slow
def test_killed_where_a_run_begins_and_where_it_ends(tmp_path):
    """Before environment.json, between training and metrics.json, before the evaluation: the results are complete."""
    options, folder = [*small(tmp_path), "trainer.max_epochs=1", "seed=1"], tmp_path / "sweep"
    folder.mkdir()
    for kill_in, trained in (("claim", 0), ("add_metrics", BATCHES), ("finish", 0), (None, 0)):
        status, batches = in_process(["-m", *options, f"sweep.resume={folder}"], tmp_path, kill_in=kill_in)
        assert (status, len(batches)) == (-signal.SIGKILL if kill_in else 0, trained), kill_in
    metrics = json.loads((folder / "0/metrics.json").read_text())
    assert {"test/knn_top1", "val/knn_top1", "val/loss", "train/loss"} <= set(metrics)
    assert [run.state for run in compare.read(folder)] == ["finished"]


@pytest.mark.slow
def test_a_killed_sweep_on_several_devices_goes_on(tmp_path):
    options, folder = [*small(tmp_path), "trainer.devices=2", "trainer.max_epochs=3"], tmp_path / "sweep"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *options, "seed=1,2", f"hydra.sweep.dir={folder}"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    alarm = threading.Timer(180, process.kill)
    alarm.start()
    begun = (line for line in process.stdout if line.startswith("epoch 1/"))
    try:
        assert next(begun)
        assert next(begun)
    finally:
        process.kill()
        process.wait()
        alarm.cancel()
    before = (folder / "0/checkpoints/last.ckpt").stat().st_mtime_ns
    assert [run.state for run in compare.read(folder)] == ["finished", "interrupted"]
    result = command("train.py", "-m", *options, "seed=1,2", f"sweep.resume={folder}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"finished already: {folder.relative_to(tmp_path)}/0" in result.stdout
    assert (folder / "0/checkpoints/last.ckpt").stat().st_mtime_ns == before
    assert [run.state for run in compare.read(folder)] == ["finished", "finished"]
    assert [steps(folder / name) for name in "01"] == [list(range(3 * BATCHES))] * 2
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_sweep_is_not_mixed_with_runs_of_another_config(tmp_path):
    """Same overrides, but conf/ has changed since; and a run that is under way elsewhere is left alone."""
    options, folder = small(tmp_path), tmp_path / "sweep"
    overrides = [*options, "seed=1"]
    for seed, change in ((1, "optimizer.lr=0.5"), (2, "seed=2")):
        cfg = config(*options, f"seed={seed}", change)
        runs.create(folder / str(seed - 1), to_container(cfg), [*options, f"seed={seed}"])
    runs.unlock(folder / "0")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = command("train.py", "-m", *overrides, f"sweep.resume={folder}", cwd=tmp_path)
    check_mistake(result, ["another config", "optimizer.lr: 0.5 there"])
    result = command("train.py", "-m", *options, "seed=2", f"sweep.resume={folder}", cwd=tmp_path)
    check_mistake(result, ["still running in another process"])
    runs.unlock(folder / "1")
    (folder / "multirun.yaml").unlink()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_failed_job_does_not_end_the_sweep(tmp_path):
    options = [*TINY, "trainer.max_epochs=1", "evaluators=[]", "hydra.sweep.dir=sweep"]
    result = command("train.py", "-m", *options, "optimizer.lr=-1,1e-3", cwd=tmp_path)
    check_mistake(result, ["optimizer.lr must be a number > 0"])
    assert json.loads((tmp_path / "sweep/1/metrics.json").read_text(encoding="utf-8"))["train/steps"] == 4


@pytest.mark.parametrize(
    ("typed", "words"),
    [("-m sweep.resume=nowhere", ["sweep.resume=nowhere", "no such folder"]), ("sweep.resume=.", ["add -m"]),
     ("sweep=grids", ["sweep=grids", "did you mean grid?"]),
     ("+callbacks.pruning={_target_:repel.cli.optuna_pruning.Pruning,pruner:null}",
      ["callbacks.pruning", "sweep=optuna"])],
)  # fmt: skip
def test_mistakes(tmp_path, typed, words):
    check_mistake(command("train.py", *typed.split(), cwd=tmp_path), words)


def test_the_grid_is_the_one_that_is_described(tmp_path):
    result = command("train.py", "sweep=grid", "seed=1", "--cfg", "hydra", "--package", "hydra.sweeper", cwd=tmp_path)
    assert yaml.safe_load(result.stdout)["params"]["negatives"] == "uniform,tilt,topk", result.stderr


# ------------------------------------------------------------------------------------------------------------ Optuna


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
    from repel.engine.launch import launch
    from repel.report.evaluate import finish

    folder = tmp_path / "sweep"
    make_study(folder, {"optimizer.lr": 0.001}, [0.0, 0.0, 1.1, 1.1])  # accuracies that nothing reaches
    cfg = config(*small(tmp_path), "sweep=optuna", "optimizer.lr=0.001", "trainer.max_epochs=4",
                 "callbacks.pruning.pruner.n_startup_trials=1", "callbacks.pruning.pruner.n_warmup_steps=1",
                 f"trainer.devices={devices}")  # fmt: skip
    runs.create(folder / "0", to_container(cfg), ["optimizer.lr=1e-3", "sweep=optuna"])
    launch(cfg, folder / "0", resume=False)
    assert steps(folder / "0") == list(range(3 * BATCHES))
    assert runs.mark_finished(folder / "0", finish(cfg, folder / "0", None)) is not None
    environment = runs.read_environment(folder / "0")
    assert (environment["outcome"], environment["pruned_after_epoch"]) == ("pruned", 3)
    assert json.loads((folder / "0/metrics.json").read_text())["test/knn_top1"] > 0
    trial = study.load(folder).trials[-1]
    assert list(trial.intermediate_values) == [0, 1, 2]
    assert trial.user_attrs == {"pruned": True}


def test_without_the_extra_there_is_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\nsys.modules['hydra_plugins'] = types.ModuleType('hydra_plugins')\n"
        "sys.modules['hydra_plugins'].__path__ = []\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = command("train.py", "-m", "sweep=optuna", cwd=tmp_path, PYTHONPATH=path)
    check_mistake(result, ["sweep=optuna", "pip install -e '.[optuna]'"])


def test_a_failed_trial_does_not_end_the_study(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    result = command("train.py", "sweep=optuna", "sweep.trials=2", "optimizer.lr=-1", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: optimizer.lr must be a number > 0") == 2
