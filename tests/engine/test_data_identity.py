"""A run and its data: resumed, evaluated and embedded after files have come, gone or moved; another place of all."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import config, made_once, make_folder
from export_runs import done  # noqa: F401  # a fixture
from folder_runs import QUICK
from runs_here import train

from repel.cli import compare, resume, sweeps
from repel.cli.going_on import with_options_of_run
from repel.engine import checkpoint_io, run_lock, runs
from repel.engine.build import build_data
from repel.engine.configs import load_config, to_container, with_data_root
from repel.engine.data_identity import read_to_evaluate
from repel.engine.fit import fit_resumed
from repel.export.embed import embed


@pytest.fixture
def trained(tmp_path_factory, tmp_path) -> tuple[Path, Path]:
    """A run of an epoch, to change, and its data: two classes of 40 images."""

    def make(cwd: Path) -> Path:
        data = make_folder(cwd / "images", ["green", "red"], 40)
        train(cwd / "run", *QUICK, "data=image_folder", f"data.root={data}", "data.test_fraction=0.2",
              "data.split_by=name")  # fmt: skip
        return cwd

    made = made_once(tmp_path_factory, "identity", make)
    shutil.copytree(made, tmp_path / "copy")
    run, data = tmp_path / "copy/run", tmp_path / "copy/images"
    runs.move_data(run, str(data))
    moved = contents(run)
    moved["config"] = with_data_root(moved["config"], str(data))
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(moved, run / "checkpoints/last.ckpt")
    return run, data


def contents(run: Path) -> dict:
    return checkpoint_io.load(run / "checkpoints/last.ckpt")


def evaluated(run: Path, named=None, **data):
    cfg = load_config(runs.current_config(run))
    for key, value in data.items():
        cfg.data[key] = cfg.data.datamodule[key] = value
    return read_to_evaluate(cfg, contents(run), named).splits


def remove(data: Path, every: int) -> int:
    files = sorted(data.rglob("*.png"))[::every]
    for file in files:
        file.unlink()
    return len(files)


def test_a_checkpoint_knows_the_samples(trained):
    run, _ = trained
    data = build_data(load_config(runs.current_config(run)))
    data.setup()
    samples = contents(run)["samples"]
    for part in ("train", "val", "test"):
        assert samples[part]["keys"].tolist() == getattr(data.splits, part).keys().tolist()
    assert sum(len(part["keys"]) for part in samples.values()) == 80


def test_resume_refuses_data_that_changed(trained):
    run, data = trained
    fit_resumed(run)  # nothing is left to train
    count = remove(data, 4)
    (data / "red/more.png").write_bytes((data / "red/001.png").read_bytes())
    before = (run / "checkpoints/last.ckpt").read_bytes()
    line = rf"data\.root=.*1 sample added \(the first: red/more\.png\), {count} samples removed.*data_root="
    with pytest.raises(ValueError, match=line):
        fit_resumed(run)
    assert (run / "checkpoints/last.ckpt").read_bytes() == before


def test_resume_of_a_run_that_kept_no_record(trained):
    """As those of version 0.1, whose splits are drawn by place: no option means that."""
    run, data = trained
    path = run / "checkpoints/last.ckpt"
    kept = contents(run)
    del kept["samples"]
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(kept, path)
    (data / "red/001.png").unlink()
    fit_resumed(run)
    cfg = config(*QUICK, "data=image_folder", f"data.root={data}")
    del cfg.data.datamodule.split_by
    assert build_data(cfg).split_by == "place"


@pytest.mark.parametrize("split_by", ["name", "place"])
def test_evaluate_leaves_out_what_was_trained_on(trained, capsys, split_by):
    run, data = trained
    before = evaluated(run)
    assert capsys.readouterr().out == ""
    used = {*before.train.names, *before.val.names}
    count = remove(data, 4)
    splits = evaluated(run, split_by=split_by)
    assert not used & set(splits.test.names)
    assert not set(before.train.names) & set(splits.val.names)
    printed = capsys.readouterr().out
    assert printed.startswith(f"data     since the run began: {count} samples removed")
    assert ("left out" in printed) == (split_by == "place")  # which draws anew
    if split_by == "name":
        assert set(splits.test.names) == {name for name in before.test.names if (data / name).exists()}


def test_evaluate_of_the_same_folder_named_as_other_data(trained, capsys):
    run, data = trained
    remove(data, 4)
    evaluated(run, named={"root": str(data)})
    assert "since the run began" in capsys.readouterr().out
    shutil.copytree(data, data.with_name("other"))
    cfg = load_config(runs.current_config(run))
    cfg.data.root = cfg.data.datamodule.read.root = str(data.with_name("other"))
    cfg.data.datamodule.split_seed = 1
    read_to_evaluate(cfg, contents(run), {"root": cfg.data.root})
    assert "test samples are named as samples that the run was trained on" in capsys.readouterr().out


def test_embed_says_how_much_has_changed(trained, capsys, done):  # noqa: F811
    run, data = trained
    done(embed, f"ckpt={run}", "checkpoint=last", f"data_root={data}", name="whole")
    assert "since" not in capsys.readouterr().out
    count = remove(data, 4)
    folder = done(embed, f"ckpt={run}", "checkpoint=last", f"data_root={data}")
    assert f"data     since the run began: {count} samples removed\n" in capsys.readouterr().out
    assert json.loads((folder / "embedding.json").read_text(encoding="utf-8"))["images"] == 80 - count


@pytest.fixture
def typed(monkeypatch):
    """prepare_run() of what is typed, in this process."""

    def call(folder: Path, *overrides: str):
        monkeypatch.setattr(resume, "task_overrides", lambda: list(overrides))
        monkeypatch.setattr(resume, "HydraConfig", SimpleNamespace(get=lambda: SimpleNamespace(mode=None)))
        monkeypatch.setattr(resume.slurm, "remember", lambda folder: None)
        monkeypatch.setattr(resume, "own_folders", list)
        monkeypatch.setattr(resume, "_chosen_groups", dict)
        try:
            return resume.prepare_run(config(*overrides), folder)
        finally:
            run_lock.unlock(folder)

    return call


def test_data_that_moved(trained, typed, done, monkeypatch):  # noqa: F811
    run, data = trained
    moved = data.rename(data.with_name("elsewhere"))
    lost = [f"ckpt={run}", "checkpoint=last"]
    for act in (lambda: fit_resumed(run), lambda: evaluated(run), lambda: done(embed, *lost, name="lost")):
        with pytest.raises(ValueError, match=r"there is no such folder.*data_root=FOLDER"):
            act()
    monkeypatch.chdir(moved.parent)
    cfg, state = typed(run, f"resume={run}", "data_root=elsewhere")
    assert (cfg.data.root, cfg.data.datamodule.read.root, state) == (str(moved), str(moved), sweeps.RESUME)
    fit_resumed(run)
    assert typed(run, f"resume={run}")[0].data.root == str(moved)  # it is remembered
    with pytest.raises(ValueError, match=r"data_root=.*a new run takes data\.root="):
        typed(run.with_name("new"), "data_root=elsewhere")
    with pytest.raises(ValueError, match=r"data_root=FOLDER"):
        with_options_of_run([f"resume={run}", f"data.root={moved}"])


def test_a_sweep_whose_data_moved(tmp_path, typed):
    """Its jobs are found by what was typed then, with data_root beside it."""
    data = make_folder(tmp_path / "images", ["a"], 2)
    overrides = ["data=image_folder", f"data.root={data}", "seed=2"]
    runs.create(tmp_path / "0", to_container(config(*overrides)), overrides)
    run_lock.unlock(tmp_path / "0")
    again = [*overrides, f"sweep.resume={tmp_path}", "data_root=/new"]
    assert sweeps.identity(again) == sweeps.identity(overrides)
    assert compare.cell_of(again) == compare.cell_of(overrides)
    for folder in ("0", "1"):  # one that began and one that did not
        cfg, state = typed(tmp_path / folder, *again)
        assert (cfg.data.root, cfg.data.datamodule.read.root, state) == ("/new", "/new", sweeps.NEW)
        assert runs.read_config(tmp_path / folder)["data"]["root"] == str(data)
    changed = ["data=image_folder", "data.root=/new", "seed=2", f"sweep.resume={tmp_path}"]
    with pytest.raises(ValueError, match=r"another config.*add data_root="):
        typed(tmp_path / "0", *changed)
