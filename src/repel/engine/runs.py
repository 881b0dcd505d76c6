"""Run folders: what is in one, and how it is created, read and written."""

import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from repel.base.cores import usable_cores
from repel.base.installation import CHECKOUT
from repel.engine.configs import with_data_root, with_values
from repel.engine.run_lock import is_locked, lock, unlock

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "tensorboard", "numpy")


def find(run: str) -> Path:
    """The run folder that a path names, by itself, by one of its checkpoints or by their folder.

    Raises:
        ValueError: it is not a run folder.
    """
    folder = Path(run).expanduser().resolve()
    if folder.suffix == ".ckpt":
        folder = folder.parent
    if folder.name == "checkpoints":
        folder = folder.parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{run} is not a run folder (no config.yaml in {folder})")
    return folder


def exists(folder: Path) -> bool:
    """Whether the folder holds a run. Deletes a config.yaml without environment.json: a kill in create() leaves one."""
    if (folder / "environment.json").exists():
        return True
    if (folder / "config.yaml").exists() and not is_locked(folder):
        (folder / "config.yaml").unlink()
    return False


def create(folder: Path, config: dict[str, Any], overrides: list[str]) -> None:
    """Write config.yaml and environment.json into a new run's folder, and lock it.

    Raises:
        ValueError: the folder already holds a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / "config.yaml").open("x", encoding="utf-8") as file:
            yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
    except FileExistsError:
        raise ValueError(f"{folder} already holds a run; name another folder, or none") from None
    lock(folder)
    write_environment(folder, overrides)


def write_environment(folder: Path, overrides: list[str]) -> None:
    write_json(folder / "environment.json", facts(overrides))


def facts(overrides: list[str]) -> dict[str, Any]:
    """What a run's record says of the process that trains it.

    Args:
        overrides: as typed.
    """
    return {
        "command": [*program(), *overrides],
        "overrides": overrides,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": usable_cores(),
        "git_commit": git_commit(),
    }


def program() -> list[str]:
    """What was typed before the options: python train.py, or repel train."""
    name = Path(sys.argv[0]).name
    return ["python", name] if name.endswith(".py") else name.split()


def reset(folder: Path, overrides: list[str]) -> None:
    """Clear the folder of a run that was stopped before its first checkpoint, except for its config."""
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # of version 0.1
    for name in ("metrics.csv", "metrics.json", "error.txt", "skipped.txt"):
        (folder / name).unlink(missing_ok=True)
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()
    write_environment(folder, overrides)


def read_environment(folder: Path) -> dict[str, Any]:
    """environment.json, or nothing where the run was killed before it was written."""
    return _read(folder / "environment.json", json.loads)


def _read(path: Path, parse: Callable[[str], Any], needed: bool = False) -> dict[str, Any]:
    """What a file of a run holds; nothing where it was not written yet, unless it is needed.

    Raises:
        ValueError: it is damaged, as after a power failure; names it.
    """
    try:
        content = parse(path.read_text(encoding="utf-8")) if needed or path.exists() else {}
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: bring it back from a copy; checkpoints/ can be evaluated without it")
    return content


def update_environment(folder: Path, **facts: Any) -> None:
    """Add facts to environment.json."""
    write_json(folder / "environment.json", read_environment(folder) | facts)


def mark_finished(folder: Path, objective: float | None) -> float | None:
    """Written last: the run is finished, with this objective, which is returned."""
    (folder / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
    outcome = "pruned" if "pruned_after_epoch" in read_environment(folder) else "finished"
    update_environment(folder, outcome=outcome, objective=objective)
    return objective


def remove_if_unused(folder: Path) -> None:
    """Remove the folder of a run that never trained, if this process has created it."""
    ours = False
    with contextlib.suppress(ValueError):  # a damaged file is another process's
        ours = read_environment(folder).get("pid") == os.getpid()
    if ours and not (folder / "checkpoints").exists() and not (folder / "metrics.csv").exists():
        for name in ("config.yaml", "environment.json"):
            (folder / name).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def discard(folder: Path, shared: bool) -> None:
    """Remove the folder of this process's run, which leaves nothing.

    Args:
        shared: whether other files were there before, as with hydra.run.dir=. for the working directory: they stay.
    """
    unlock(folder)
    if not shared:
        shutil.rmtree(folder)
        return
    for name in ("config.yaml", "environment.json", "skipped.txt"):
        (folder / name).unlink(missing_ok=True)


def git_commit() -> str | None:
    """The project's commit, with -dirty where files differ from it; None outside git and where it is installed."""
    if CHECKOUT is None:
        return None
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml, with which the folder was made."""
    return _read(folder / "config.yaml", yaml.safe_load, needed=True)


def move_data(folder: Path, root: str) -> None:
    """Note where a run's data lies now; its config keeps what was typed.

    Raises:
        ValueError: its data is in no folder.
    """
    root = os.path.abspath(Path(str(root)).expanduser())
    with_data_root(read_config(folder), root)
    update_environment(folder, data_root=root)


def current_config(folder: Path) -> dict[str, Any]:
    """The run's config, with what resuming has changed, and with its data where it lies now."""
    config, environment = read_config(folder), read_environment(folder)
    for record in environment.get("resumed", ()):
        config = with_values(config, record["changes"])
    root = environment.get("data_root")
    return config if root is None else with_data_root(config, root)


def write_json(path: Path, content: Any) -> None:
    """Atomically: the file is complete or unchanged. JSON has no word for NaN and infinity: they become null."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(item) for item in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_metrics(folder: Path) -> dict[str, float]:
    """metrics.json, NaN for what is not finite; empty where nothing was measured."""
    metrics = _read(folder / "metrics.json", json.loads)
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def add_metrics(folder: Path, metrics: dict[str, float]) -> dict[str, float]:
    """Merge into metrics.json, flat names to final values; returns the whole."""
    merged = dict(sorted((read_metrics(folder) | metrics).items()))
    write_json(folder / "metrics.json", merged)
    return merged
