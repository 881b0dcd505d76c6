"""The records of a run that was resumed, in its environment.json: one for every time, beside that of its start.

Each says what was typed, what that changed of the run's config, and what the process was: versions, device, threads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repel.engine import runs
from repel.engine.outcomes import MISTAKE, explain

__all__ = ["differences", "note_device", "note_resume", "undone_by_mistakes"]


def note_resume(folder: Path, overrides: list[str], changes: dict[str, Any]) -> None:
    """Add a record.

    Args:
        overrides: options that were typed beside resume=.
        changes: dotted keys of the run's config -> new values, which the run keeps.
    """
    environment = runs.read_environment(folder)
    records = environment.setdefault("resumed", [])
    records.append(runs.facts(overrides) | {"changes": changes})
    if any(key.startswith("trainer.max_") for key in changes):  # it goes on
        environment = {key: value for key, value in environment.items() if key not in ("outcome", "objective")}
    runs.write_json(folder / "environment.json", environment)


@contextmanager
def undone_by_mistakes(folder: Path, before: dict[str, Any]) -> Iterator[None]:
    """A mistake before the first step, such as devices that are not there, leaves a resumed run's record as it was.

    Args:
        before: environment.json as it was.
    """
    last = folder / "checkpoints" / "last.ckpt"
    saved = os.stat(last).st_mtime_ns if last.exists() else None
    try:
        yield
    except Exception as error:
        if explain(error)[0] == MISTAKE and saved is not None and os.stat(last).st_mtime_ns == saved:
            runs.write_json(folder / "environment.json", before)
        raise


def note_device(folder: Path, device: str, resume: bool) -> None:
    """Add what a run trains on to the record of its start, or of the time that it was resumed now."""
    environment = runs.read_environment(folder)
    records = environment.setdefault("resumed", []) if resume else [environment]
    if not records:  # resumed in Python, without the command
        records.append(runs.facts([]) | {"changes": {}})
    records[-1]["device"] = device
    runs.write_json(folder / "environment.json", environment)


def differences(folder: Path) -> str:
    """How a resumed run's process differs from the one before, in words; empty where it rounds alike."""
    environment = runs.read_environment(folder)
    records = [record for record in (environment, *environment.get("resumed", ())) if "device" in record]
    if len(records) < 2:
        return ""
    before, now = ({"on": r["device"], "python": r.get("python"), **r.get("packages", {})} for r in records[-2:])
    changed = [name for name in before if name in now and before[name] != now[name]]
    return ", ".join(f"{name} {now[name]} ({before[name]} before)" for name in changed)
