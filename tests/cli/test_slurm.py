"""A requeued SLURM job finds the folder that the same command had started."""

import sys

import pytest

from repel.cli import slurm


@pytest.fixture
def started(tmp_path, monkeypatch):
    """What a job's first attempt noted."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    slurm.remember(tmp_path / "first")
    slurm.remember(tmp_path / "first")
    return tmp_path


def test_the_same_command_of_a_requeued_job_finds_its_folder(started, monkeypatch):
    assert slurm.earlier_folder(started) is None  # not requeued: the same command twice is two runs
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm.earlier_folder(started) == str(started / "first")
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=2"])
    assert slurm.earlier_folder(started) is None
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert slurm.earlier_folder(started) is None


def test_outside_slurm_nothing_is_noted(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slurm.remember(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_commands_of_one_job_at_the_same_time_keep_their_notes(started, monkeypatch):
    """Two that read and wrote one file would lose one of them, which then began anew."""
    stale = slurm._entries(started)
    monkeypatch.setattr(slurm, "_entries", lambda parent: stale)  # what the second one had read
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=2"])
    slurm.remember(started / "second")
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=3"])
    slurm.remember(started / "third")
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert [entry["folder"] for entry in slurm._entries(started)] == [
        str(started / name) for name in ("first", "second", "third")
    ]


def test_a_job_that_was_requeued_across_an_update_finds_its_notes(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    (tmp_path / ".slurm").mkdir()
    (tmp_path / ".slurm/7.json").write_text('[{"command": ["seed=1"], "folder": "of 0.1"}]', encoding="utf-8")
    assert slurm.earlier_folder(tmp_path) == "of 0.1"
