"""A folder of its own for every command, also in the same second; where none can be made, one line."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from composing import composed

from repel.cli import folders
from repel.cli.command import entry_point
from repel.engine.outcomes import MISTAKE


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """Runs a command in this process, in tmp_path: its exit status, and the folders of its jobs."""
    monkeypatch.setattr("repel.cli.command.raise_on_signal", lambda: None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command sets
    monkeypatch.chdir(tmp_path)

    def run(name: str, *typed: str) -> tuple[int, list[str]]:
        ran = []
        monkeypatch.setattr(sys, "argv", ["command.py", *typed, "hydra/hydra_logging=none"])
        try:
            entry_point(name)(lambda cfg, folder: ran.append(str(folder.relative_to(tmp_path))))()
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, ran

    return run


def test_of_many_that_want_one_name_each_gets_a_folder(tmp_path):
    new = str(tmp_path / "runs/date_name")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(folders.make_folder, [new] * 24))
    assert sorted(made) == sorted([new, *(f"{new}_{number}" for number in range(2, 25))])
    assert all(Path(folder).is_dir() for folder in made)


@pytest.mark.parametrize(("name", "typed"), [("train", []), ("evaluate", ["ckpt=x"]), ("embed", ["ckpt=x"]),
                                             ("export", ["ckpt=x"]), ("show_views", [])])  # fmt: skip
def test_every_command_makes_its_folder(name, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command.py"])
    cfg = composed(name, typed, hydra=True)
    cfg.hydra.runtime.cwd = str(tmp_path)
    for ending in ("default", "default_2"):
        mine = copy.deepcopy(cfg)
        for kind in ("run", "sweep"):
            folder = Path(mine.hydra[kind].dir)
            assert folder.name.endswith(f"_{ending}")
            assert folder.is_dir()
            assert Path(mine.hydra[kind].dir) == folder  # made once
            assert pickle.loads(pickle.dumps(mine)).hydra[kind].dir == str(folder)  # in a launcher's process


@pytest.mark.slow
def test_sweeps_of_the_same_second_share_nothing(ended):
    typed = ["-m", "ckpt=x,y", "hydra.sweep.dir=${own_folder:sweeps/second}"]
    assert ended("export", *typed) == (0, ["sweeps/second/0", "sweeps/second/1"])
    assert ended("export", *typed) == (0, ["sweeps/second_2/0", "sweeps/second_2/1"])


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize(
    ("typed", "words"),
    [(["name=" + "n" * 300], ["name", "letters", "shorter"]), (["name=n"], ["is a file", "hydra.run.dir"]),
     (["hydra.run.dir=file/x", "hydra.sweep.dir=file/x"], ["file", "is a file", "hydra.run.dir"]),
     (["hydra.run.dir=/proc/x", "hydra.sweep.dir=/proc/x"], ["/proc/x", "cannot make"])],
    ids=["long", "file", "typed", "proc"],
)  # fmt: skip
def test_a_folder_that_cannot_be_made_is_one_line(ended, capfd, tmp_path, mode, typed, words):
    for folder in ("runs", "sweeps") if "name=n" in typed else ():
        (tmp_path / folder).write_text("", encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert ended("export", *mode, "ckpt=x", *typed) == (MISTAKE, [])
    line = capfd.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert all(word in line for word in words), line


def test_the_folder_of_out_is_one(ended, capfd, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert ended("export", "ckpt=x", "out=file") == (MISTAKE, [])
    assert "file is a file, and file is to be a folder: rename that file; or name another folder by out=DIR" in (
        capfd.readouterr().err
    )
    assert ended("export", "-m", "ckpt=x", "out=new") == (MISTAKE, [])
    assert "out= names one folder" in capfd.readouterr().err


def test_a_folder_that_may_not_be_written_is_named(monkeypatch, tmp_path):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"cannot make the folder .*/runs \(Permission denied\): start in another"):
        folders.make_folder(str(tmp_path / "runs/x"))


@pytest.mark.parametrize("typed", [["--cfg=all", "--resolve"], ["hydra.run.dir=there"]])
def test_what_is_only_composed_or_shown_makes_no_folder(ended, tmp_path, typed):
    assert ended("export", *typed, "ckpt=x")[0] == 0
    assert not (tmp_path / "runs").exists()
