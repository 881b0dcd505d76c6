"""A SLURM job that is requeued finds the runs that it had begun: a note beside them says which command made which.

Names with a date would otherwise give the second attempt another folder, in which it begins anew.
"""

import json
import os
from pathlib import Path

from repel import runs


def job() -> str | None:
    """This job's number, which a requeue keeps; None outside SLURM."""
    return os.environ.get("SLURM_JOB_ID")


def requeued() -> bool:
    return job() is not None and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def notes(parent: Path) -> Path:
    return parent / ".slurm" / f"{job()}.json"


def begun_before(parent: Path, overrides: list[str]) -> str | None:
    """The folder below parent in which this job's earlier attempt ran the same command, if it had come so far."""
    if not requeued() or not notes(parent).exists():
        return None
    known = json.loads(notes(parent).read_text())
    return next((entry["folder"] for entry in known if entry["overrides"] == list(overrides)), None)


def remember(folder: Path, overrides: list[str]) -> None:
    """Note for a later attempt of this job, if it is one of SLURM."""
    if job() is not None:
        path = notes(folder.parent)
        path.parent.mkdir(exist_ok=True)
        known = json.loads(path.read_text()) if path.exists() else []
        runs.write_json(path, [*known, {"overrides": overrides, "folder": str(folder)}])
