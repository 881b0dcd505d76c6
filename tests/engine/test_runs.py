"""Run folders: created once, locked, found, and cleaned up where nothing ran."""

import json
import math

import pytest

from repel.engine import run_lock, runs


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "run"
    runs.create(made, {"seed": 1}, ["seed=1"])
    yield made
    run_lock.unlock(made)


def test_a_new_folder_is_complete_and_locked(folder):
    assert runs.read_config(folder) == {"seed": 1}
    assert runs.read_environment(folder)["overrides"] == ["seed=1"]
    assert run_lock.is_locked(folder)
    assert runs.exists(folder)
    with pytest.raises(ValueError, match=r"already holds a run; name another folder"):
        runs.create(folder, {"seed": 2}, [])
    with pytest.raises(ValueError, match="still running in another process"):
        run_lock.lock(folder)
    run_lock.unlock(folder)
    assert not run_lock.is_locked(folder)


def test_a_run_is_named_by_its_folder_or_a_checkpoint(folder, monkeypatch):
    assert runs.find(str(folder)) == runs.find(str(folder / "checkpoints/best.ckpt")) == folder
    assert runs.find(f"{folder}/checkpoints/") == folder  # as a shell completes it
    monkeypatch.setenv("HOME", str(folder.parent))
    assert runs.find("~/run") == folder
    with pytest.raises(ValueError, match="not a run folder"):
        runs.find(str(folder.parent))


def test_a_number_that_is_not_finite_is_null_in_json(folder):
    """Other programs refuse a file with NaN or Infinity in it."""
    runs.add_metrics(folder, {"test/a": math.nan, "test/b": math.inf, "test/c": 0.5})
    runs.add_metrics(folder, {"test/d": 1.0})
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "test/a": None,
        "test/b": None,
        "test/c": 0.5,
        "test/d": 1.0,
    }
    assert [math.isnan(value) for value in runs.read_metrics(folder).values()] == [True, True, False, False]
    runs.write_json(folder / "x.json", {"records": [{"settings": (1.0, -math.inf)}]})
    assert json.loads((folder / "x.json").read_text(encoding="utf-8")) == {"records": [{"settings": [1.0, None]}]}


def test_what_a_kill_during_creation_leaves_is_removed(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    assert not runs.exists(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_nothing_ran_is_removed(folder):
    (folder / "checkpoints").mkdir()
    runs.remove_if_unused(folder)
    assert (folder / "config.yaml").exists()  # something ran
    (folder / "checkpoints").rmdir()
    runs.update_environment(folder, pid=0)
    runs.remove_if_unused(folder)
    assert (folder / "config.yaml").exists()  # another process's
    runs.write_environment(folder, [])
    runs.remove_if_unused(folder)
    assert not folder.exists()


def test_a_finished_run_says_how_it_ended(folder):
    (folder / "error.txt").write_text("of an earlier attempt", encoding="utf-8")
    assert runs.mark_finished(folder, 0.5) == 0.5
    assert not (folder / "error.txt").exists()
    found = runs.read_environment(folder)
    assert (found["outcome"], found["objective"]) == ("finished", 0.5)
    runs.update_environment(folder, pruned_after_epoch=2)
    runs.mark_finished(folder, 0.4)
    assert runs.read_environment(folder)["outcome"] == "pruned"


def test_metrics_are_merged_in_order(folder):
    runs.add_metrics(folder, {"b": 1.0, "a": 2.0})
    assert list(runs.add_metrics(folder, {"a": 3.0, "c": 4.0}).items()) == [("a", 3.0), ("b", 1.0), ("c", 4.0)]
    for events in ("events.out.tfevents.1.host.2.0", "tensorboard/events.out.tfevents.1.host.2.0"):
        (folder / events).parent.mkdir(exist_ok=True)
        (folder / events).touch()
    runs.reset(folder, ["seed=1"])
    assert runs.read_metrics(folder) == {}
    assert not list(folder.rglob("*tfevents*"))


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\xff", b'{"a": '])
@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.json"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    """As a power failure leaves it; without its name the line says that a value is expected in line 1."""
    read = {"config.yaml": runs.read_config, "metrics.json": runs.read_metrics}.get(name, runs.read_environment)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{tmp_path}/{name} is damaged"):
        read(tmp_path)
    runs.remove_if_unused(tmp_path)  # which a mistake calls
    assert (tmp_path / name).read_bytes() == content
