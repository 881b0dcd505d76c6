"""Sweeps: which folder a job runs in, interrupted sweeps that are resumed, jobs that fail."""

import json
import signal
import threading

import faults
import pytest
import yaml
from conftest import TINY, check_mistake, command, config, left_over
from sweep_runs import BATCHES, count, in_process, make_run, small, steps

from repel.cli import compare
from repel.cli import sweep_report as script
from repel.cli.sweeps import identity, job_folders
from repel.engine import run_lock, runs
from repel.engine.configs import to_container


def test_a_jobs_identity_is_its_overrides_in_any_order():
    one = identity(["loss=ntxent", "optimizer.lr=1e-3", "seed=1"])
    assert one == identity(["seed=1", "optimizer.lr=0.001", "loss=ntxent", "sweep.resume=x", "sweep=grid"])
    assert one != identity(["loss=ntxent", "optimizer.lr=1e-3", "seed=2"])
    assert one != identity(["loss=ntxent", "optimizer.lr=1e-3"])
    assert identity(["a=true"]) != identity(["a=1"])
    assert identity(["a=1.0"]) == identity(["a=1"]) == {("a", "1")}
    assert identity(["a=1e30"]) == {("a", "1e+30")}


def test_jobs_find_their_folders_and_new_ones_free_numbers(tmp_path):
    """Chosen for all of them at once: jobs that begin side by side would choose the same number."""
    for number in range(2):
        make_run(tmp_path / str(number), ["loss=ntxent", f"seed={number}"], None)
    (tmp_path / "2").mkdir()  # killed before it was claimed
    claimed = set()
    jobs = [["seed=7", "loss=ntxent"], ["seed=8", "loss=ntxent"], ["seed=0", "loss=ntxent", "hydra/launcher=joblib"]]
    assert job_folders(tmp_path, jobs, 0, claimed, resumed=True) == ["2", "3", "0"]
    assert job_folders(tmp_path, [["seed=9"], ["loss=ntxent", "seed=1"]], 3, claimed, resumed=True) == ["4", "1"]
    assert claimed == {"0", "1", "2", "3", "4"}


def test_a_new_sweep_begins_in_no_other_sweeps_folder(tmp_path):
    make_run(tmp_path / "1", ["seed=1"], None)
    with pytest.raises(ValueError, match=rf"{tmp_path}/1 already holds a run; sweep\.resume={tmp_path} goes on there"):
        job_folders(tmp_path, [["seed=1"], ["seed=2"]], 0, set(), resumed=False)
    # a later batch of a search, whose number another process has taken
    assert job_folders(tmp_path, [["seed=1"]], 1, {"0"}, resumed=False) == ["2"]


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
    assert script.report(folder, ["val/knn_top1"], None).startswith("4 runs: 4 finished\n")


@pytest.mark.slow
def test_killed_where_a_run_begins_and_where_it_ends(tmp_path):
    """Before environment.json, between training and metrics.json, before the evaluation: the results are complete."""
    options, folder = [*small(tmp_path), "evaluators=[knn]", "trainer.max_epochs=1", "seed=1"], tmp_path / "sweep"
    folder.mkdir()
    for kill_in, trained in (("claim", 0), ("add_metrics", BATCHES), ("finish", 0), (None, 0)):
        status, batches = in_process(["-m", *options, f"sweep.resume={folder}"], tmp_path, kill_in=kill_in)
        assert (status, len(batches)) == (-signal.SIGKILL if kill_in else 0, trained), kill_in
    metrics = json.loads((folder / "0/metrics.json").read_text())
    assert {"test/knn_top1", "val/knn_top1", "val/loss", "train/loss"} <= set(metrics)
    assert [run.state for run in compare.read(folder)] == ["finished"]


@pytest.mark.slow
def test_a_killed_sweep_on_several_devices_goes_on(tmp_path):
    """Killed in the second job, after its first epoch; its ranks end with it."""
    options, folder = [*small(tmp_path), "trainer.devices=2", "trainer.max_epochs=1,3"], tmp_path / "sweep"
    killed = command("train.py", "-m", *options, f"hydra.sweep.dir={folder}", cwd=tmp_path,
                     **faults.injected(f"KILL:parent:{BATCHES + 1}"))  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = (folder / "0/checkpoints/last.ckpt").stat().st_mtime_ns
    while left_over(tmp_path) or run_lock.is_locked(folder / "1"):  # the ranks end a moment after what started them
        threading.Event().wait(0.05)  # and a process gives up its files a moment after it can be seen no longer
    assert [run.state for run in compare.read(folder)] == ["finished", "interrupted"]
    result = command("train.py", "-m", *options, f"sweep.resume={folder}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"finished already: {folder.relative_to(tmp_path)}/0" in result.stdout
    assert (folder / "0/checkpoints/last.ckpt").stat().st_mtime_ns == before
    assert [run.state for run in compare.read(folder)] == ["finished", "finished"]
    assert [steps(folder / name) for name in "01"] == [list(range(BATCHES)), list(range(3 * BATCHES))]
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_sweep_is_not_mixed_with_runs_of_another_config(tmp_path):
    """Same overrides, but conf/ has changed since; and a run that is under way elsewhere is left alone."""
    options, folder = small(tmp_path), tmp_path / "sweep"
    overrides = [*options, "seed=1"]
    for seed, change in ((1, "optimizer.lr=0.5"), (2, "seed=2")):
        cfg = config(*options, f"seed={seed}", change)
        runs.create(folder / str(seed - 1), to_container(cfg), [*options, f"seed={seed}"])
    run_lock.unlock(folder / "0")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = command("train.py", "-m", *overrides, f"sweep.resume={folder}", cwd=tmp_path)
    check_mistake(result, ["another config", "optimizer.lr: 0.5 there"])
    result = command("train.py", "-m", *options, "seed=2", f"sweep.resume={folder}", cwd=tmp_path)
    check_mistake(result, ["still running in another process"])
    run_lock.unlock(folder / "1")
    (folder / "multirun.yaml").unlink()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
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
