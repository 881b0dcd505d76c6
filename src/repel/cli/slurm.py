"""A requeued SLURM job finds the runs and sweeps it had started: notes next to them record which command made which.

Names with a date would otherwise give the second attempt another folder, in which it starts anew.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repel.engine import runs

__all__ = ["earlier_folder", "first_meaning", "remember", "requeued"]


def _job() -> str | None:
    """This job's number, which a requeue keeps; None outside SLURM."""
    return os.environ.get("SLURM_JOB_ID")


def requeued() -> bool:
    return _job() is not None and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def _notes(parent: Path) -> Path:
    """A folder with a note for each run and sweep that this job started: commands at a time share no file."""
    return parent / ".slurm" / str(_job())


def _entries(parent: Path) -> list[dict[str, Any]]:
    """What this job's attempts started below parent: commands and their folders."""
    old = parent / ".slurm" / f"{_job()}.json"  # version 0.1 had one file for all
    entries = json.loads(old.read_text(encoding="utf-8")) if old.exists() else []
    return entries + [json.loads(note.read_text(encoding="utf-8")) for note in sorted(_notes(parent).glob("*.json"))]


def earlier_folder(parent: Path) -> str | None:
    """The folder below parent in which this job's earlier attempt ran the same command, if it came so far."""
    if not requeued():
        return None
    return next((entry["folder"] for entry in _entries(parent) if entry["command"] == sys.argv[1:]), None)


def remember(folder: Path) -> None:
    """Note the folder of this command's run or sweep for a later attempt of this job, if it is one of SLURM."""
    entry = {"command": sys.argv[1:], "folder": str(folder)}
    if _job() is not None and entry not in _entries(folder.parent):
        _notes(folder.parent).mkdir(parents=True, exist_ok=True)
        runs.write_json(_notes(folder.parent) / f"{folder.name}.json", entry)


def first_meaning(argument: str, find: Callable[[], str]) -> str:
    """What find() gave for this argument in the job's first attempt: others may have begun runs since."""
    note = Path("runs/.slurm") / f"{_job()}.json"
    known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    found = known[argument] if requeued() and argument in known else find()
    if _job() is not None and found != known.get(argument):
        note.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(note, known | {argument: found})
    return found
