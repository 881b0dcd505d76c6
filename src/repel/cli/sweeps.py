"""Sweeps: which folder a job runs in, and what an interrupted sweep still has to do.

A job is identified by its overrides, not by its number: a sweep resumed with more values numbers its jobs anew.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from repel.cli import slurm
from repel.engine import runs
from repel.engine.configs import flatten

OWN = ("sweep", "data_root")  # options of the sweep's, not of its jobs
FINISHED, RESUME, NEW = "finished", "resume", "new"  # what prepare_run() found in a run's folder


def job_folder(resume: str | None, sweep: str, number: int, overrides: list[str]) -> str:
    """The name of a job's folder: its number; in a resumed sweep, that of the folder where the job ran before."""
    if not resume and not slurm.requeued():
        return str(number)
    wanted = identity(overrides)
    for folder in run_folders(Path(sweep)):
        if identity(runs.read_environment(folder).get("overrides", [])) == wanted:
            return folder.name
    while (Path(sweep) / str(number) / "environment.json").exists():
        number += 1  # an added job, whose number another had
    return str(number)


def run_folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's started jobs, by number."""
    found = (path.parent for path in sweep.glob("*/environment.json"))
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def identity(overrides: Iterable[str]) -> frozenset[tuple[str, str]]:
    """What makes two jobs the same: their overrides in any order, by value, without the sweep's own options."""
    last = dict(map(key_and_value, overrides))  # of a key that is given twice, the last counts
    return frozenset(pair for pair in last.items() if pair[0].split(".")[0] not in ("sweep", "hydra", "data_root"))


@functools.cache
def key_and_value(override: str) -> tuple[str, str]:
    """'+optimizer.lr=1e-3' -> ('+optimizer.lr', '0.001'): equal values are spelled alike. '~a.b' -> ('~a.b', '')."""
    parsed = OverridesParser.create().parse_override(override)
    deleted = parsed.is_delete() and "=" not in override
    return parsed.get_key_element(), "" if deleted else _spelling(parsed.value())


def as_typed(pairs: Mapping[str, str]) -> str:
    """Overrides as one types them, from keys and values: 'loss=ntxent ~optimizer.weight_decay'."""
    return " ".join(key if key.startswith("~") and not value else f"{key}={value}" for key, value in pairs.items())


def _spelling(value: Any) -> str:
    """One spelling of a value: 1e-3 is 0.001, 1.0 is 1, True is true, and the order within {} does not matter."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(_spelling, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(sorted(f'{_spelling(k)}:{_spelling(v)}' for k, v in value.items()))}}}"
    if isinstance(value, str):
        return value if _is_plain_text(value) else f"'{value}'"
    return "null" if value is None else str(value)


def _is_plain_text(text: str) -> bool:
    """Whether a text means itself without quotes: 'ntxent' does, '1' and '[a]' do not."""
    try:
        return OverridesParser.create().parse_override(f"key={text}").value() == text
    except HydraException:
        return False


def plan_job(folder: Path, config: dict[str, Any], overrides: list[str]) -> str:
    """What is left to do for a job that an interrupted sweep started: FINISHED, RESUME or, in place, NEW.

    Args:
        config: as the job is configured now.

    Raises:
        ValueError: the folder's run had another config, or still runs in another process.
    """
    before, now = (flatten({k: v for k, v in c.items() if k not in OWN}) for c in (runs.read_config(folder), config))
    moved = "; if the data has moved, leave data.root as it was and add data_root=FOLDER"
    if changed := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
        there, here = (values.get(changed[0], "absent") for values in (before, now))
        raise ValueError(
            f"{folder} ran with another config ({changed[0]}: {there} there, {here} now"
            + (f", and {len(changed) - 1} more" if changed[1:] else "")
            + "); undo the change, or start a new sweep"
            + moved * set(changed).issubset({"data.root", "data.datamodule.read.root"})
        )
    runs.lock(folder)
    if "outcome" in runs.read_environment(folder):
        return FINISHED
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return RESUME
    runs.reset(folder, overrides)
    return NEW
