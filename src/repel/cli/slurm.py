"""A SLURM job that is requeued finds the runs and sweeps it had begun: notes beside them say which command made which.

Names with a date would otherwise give the second attempt another folder, in which it begins anew.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from repel.engine import runs


def job() -> str | None:
    """This job's number, which a requeue keeps; None outside SLURM."""
    return os.environ.get("SLURM_JOB_ID")


def requeued() -> bool:
    return job() is not None and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def notes(parent: Path) -> Path:
    return parent / ".slurm" / f"{job()}.json"


def begun(parent: Path) -> list[dict[str, Any]]:
    """What this job's attempts began below parent: commands and their folders."""
    return json.loads(notes(parent).read_text()) if notes(parent).exists() else []


def begun_before(parent: Path) -> str | None:
    """The folder below parent in which this job's earlier attempt ran the same command, if it had come so far."""
    if not requeued():
        return None
    return next((entry["folder"] for entry in begun(parent) if entry["command"] == sys.argv[1:]), None)


def remember(folder: Path) -> None:
    """Note the folder of this command's run or sweep for a later attempt of this job, if it is one of SLURM."""
    entry = {"command": sys.argv[1:], "folder": str(folder)}
    if job() is not None and entry not in (known := begun(folder.parent)):
        notes(folder.parent).parent.mkdir(exist_ok=True)
        runs.write_json(notes(folder.parent), [*known, entry])
