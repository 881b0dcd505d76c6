"""Sweeps: which folder a job runs in, and what an interrupted sweep still has to do.

A job is identified by its overrides, not by its number: a sweep resumed with more values numbers its jobs anew.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from repel.engine import run_lock, runs
from repel.engine.configs import flatten

OWN = ("sweep", "data_root")  # options of the sweep's, not of its jobs
FINISHED, RESUME, NEW = "finished", "resume", "new"  # what prepare_run() found in a run's folder


def job_folders(sweep: Path, jobs: list[list[str]], first: int, claimed: set[str], resumed: bool) -> list[str]:
    """The names of the folders of jobs: where a job ran before, else its number, else the next free one.

    Args:
        jobs: the overrides of each.
        first: the number of the first.
        claimed: names that this command has given to earlier jobs; these are added.
        resumed: whether the sweep's folder is an earlier command's.

    Raises:
        ValueError: a new sweep's folder has a job already.
    """
    numbers = range(first, first + len(jobs))
    before = {place.name: identity(runs.read_environment(place).get("overrides", [])) for place in run_folders(sweep)}
    if before and not resumed and not claimed and (taken := sorted({*map(str, numbers)} & {*before})):
        raise ValueError(
            f"{sweep / taken[0]} already holds a run; sweep.resume={sweep} goes on there, or name another folder"
        )
    wanted = [identity(overrides) for overrides in jobs] if resumed else []
    found: dict[int, str] = {}
    for number, mine in zip(numbers, wanted, strict=False):
        there = {*before} - claimed - {*found.values()}
        if same := [name for name, other in before.items() if name in there and other == mine]:
            found[number] = same[0]
    for number in numbers:
        if number not in found:
            there = {*claimed, *before, *found.values()}
            found[number] = next(str(free) for free in itertools.count(number) if str(free) not in there)
    claimed |= {*found.values()}
    return [found[number] for number in numbers]


def run_folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's started jobs, by number."""
    found = (path.parent for path in sweep.glob("*/environment.json"))
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def identity(overrides: Iterable[str]) -> frozenset[tuple[str, str]]:
    """What makes two jobs the same: their overrides in any order, by value, without the sweep's own options."""
    last = dict(map(key_and_value, overrides))  # of a key that is given twice, the last counts
    return frozenset(p for p in last.items() if re.split("[./]", p[0])[0] not in ("sweep", "hydra", "data_root"))


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
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
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
    run_lock.lock(folder)
    if "outcome" in runs.read_environment(folder):
        return FINISHED
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return RESUME
    runs.reset(folder, overrides)
    return NEW


def typed_overrides(sweep: Path) -> list[str]:
    """What a sweep's last command asked for; nothing where there is no sweep, or one that chooses as it goes."""
    try:
        asked = yaml.safe_load((sweep / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]
        return [f"{k}={v}" for k, v in (asked["sweeper"]["params"] or {}).items()] + asked["overrides"]["task"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return []


def varied_keys(folder: Path) -> list[str]:
    """What the sweep of a job varies; nothing for a single run.

    Args:
        folder: of the job.
    """
    try:
        typed = OverridesParser.create().parse_overrides(typed_overrides(folder.parent))
    except HydraException:
        return []
    return [override.key_or_group for override in typed if override.is_sweep_override()]
