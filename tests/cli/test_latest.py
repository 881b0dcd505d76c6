"""`latest` stands for the newest run, sweep or folder of features wherever one is named."""

import os
import sys
from pathlib import Path

import pytest

from repel.cli import sweep_report
from repel.cli.latest import EMBEDDED, newest, with_latest
from repel.cli.search import parsed


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Folders of runs that began one after another: with a checkpoint, but for the last one, unless told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def begin(*folders: str, checkpoint: bool = True):
        for folder in map(Path, folders):
            (folder / "checkpoints").mkdir(parents=True)
            (folder / "config.yaml").write_text("", encoding="utf-8")
            begin.clock += 1
            os.utime(folder / "config.yaml", ns=(begin.clock, begin.clock))
            if checkpoint:
                (folder / "checkpoints/last.ckpt").touch()

    begin.clock = 0
    return begin


def test_the_newest_is_the_one_that_began_last(begun, capsys):
    begun("runs/train/b", "sweeps/train/old/0", "sweeps/train/new/0", "sweeps/train/old/1", "runs/train/a")
    begun("runs/train/c", checkpoint=False)
    typed = ["resume=latest", "ckpt=latest", "init=latest", "name=latest"]
    assert with_latest(typed) == [*(f"{key}=runs/train/a" for key in ("resume", "ckpt", "init")), "name=latest"]
    assert capsys.readouterr().out.splitlines()[:2] == [
        "note     1 newer without a checkpoint", "latest   resume=latest is runs/train/a",
    ]  # fmt: skip
    typed = ["sweep.resume=latest", "init=sweeps/train/latest"]
    assert with_latest(typed) == ["sweep.resume=sweeps/train/new", "init=sweeps/train/old/1"]
    assert capsys.readouterr().out.splitlines()[-1] == "latest   init=sweeps/train/latest is sweeps/train/old/1"
    begun("latest")
    assert with_latest(["ckpt=latest"]) == ["ckpt=latest"]  # a run of that name


@pytest.mark.parametrize(
    ("typed", "words"),
    [("resume=latest", "resume=latest: there is no run with a checkpoint in runs/train or sweeps/train"),
     ("ckpt=elsewhere/latest", "no run with a checkpoint in elsewhere"),
     ("sweep.resume=latest", "there is no sweep in sweeps/train"),
     ("init=latest sweep.resume=latest", "may be a job of that sweep")],
)  # fmt: skip
def test_where_there_is_none_a_line_says_where_it_looked(begun, typed, words):
    begun("runs/train/a", checkpoint=False)
    with pytest.raises(ValueError, match=words):
        with_latest(typed.split())


def test_scripts_take_it_too(begun, capsys):
    Path("q.png").touch()
    begun("runs/embed/a", "runs/embed/b", "runs/train/a", "sweeps/train/s/0")
    assert parsed(["q.png", "latest", "ckpt=latest"])[1:] == (
        Path("runs/embed/b"), {"ckpt": "sweeps/train/s/0", "k": "10"},
    )  # fmt: skip
    assert newest(EMBEDDED, "runs/embed/a", "a") == "runs/embed/a"


def test_a_report_of_the_newest_sweep(begun, monkeypatch, capsys):
    begun("sweeps/train/s/0", "sweeps/train/t/0")
    monkeypatch.setattr(sweep_report, "report", lambda folder, *_: f"of {folder}")
    monkeypatch.setattr(sys, "argv", ["report", "latest"])
    assert sweep_report.main() == 0
    assert capsys.readouterr().out.splitlines() == ["latest   latest is sweeps/train/t", "of sweeps/train/t"]


def test_a_requeued_job_means_the_same_run_again(begun, monkeypatch):
    """Its own run is newer by then."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    begun("runs/train/a")
    assert with_latest(["init=latest"]) == ["init=runs/train/a"]
    begun("runs/train/b")
    assert with_latest(["ckpt=latest"]) == ["ckpt=runs/train/b"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert with_latest(["init=latest"]) == ["init=runs/train/a"]


def test_what_prints_the_config_prints_nothing_else(begun, monkeypatch, capsys):
    begun("runs/train/a")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--cfg", "job", "ckpt=latest"])
    assert with_latest(sys.argv[1:])[-1] == "ckpt=runs/train/a"
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "latest   ckpt=latest is runs/train/a\n")
