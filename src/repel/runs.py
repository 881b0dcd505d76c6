"""Run folders: what lies in one, and how it is claimed, read and written."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "tensorboard", "numpy")


def find(run: str) -> Path:
    """The run folder that was meant.

    Raises:
        ValueError: it is none.
    """
    folder = Path(run).expanduser().resolve()
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{run} is not a run folder (no config.yaml in {folder})")
    return folder


def claim(folder: Path, config: dict[str, Any], overrides: list[str]) -> None:
    """Write config.yaml and environment.json into a new run's folder.

    Raises:
        ValueError: the folder already holds a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / "config.yaml").open("x") as file:
            yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
    except FileExistsError:
        raise ValueError(
            f"{folder} already holds a run; go on with it by resume={folder}, or choose name=..."
        ) from None
    environment = {
        "command": ["python", Path(sys.argv[0]).name, *overrides],
        "overrides": overrides,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git_commit": git_commit(),
    }
    write_json(folder / "environment.json", environment)


def add_device(folder: Path, device: str) -> None:
    """Into environment.json, once it is known."""
    path = folder / "environment.json"
    write_json(path, json.loads(path.read_text()) | {"device": device})


def ours(folder: Path) -> bool:
    """Whether this process has claimed the folder."""
    environment = folder / "environment.json"
    return environment.exists() and json.loads(environment.read_text())["pid"] == os.getpid()


def discard(folder: Path) -> None:
    """Remove the folder of a run in which nothing has run, if this process has claimed it."""
    if ours(folder) and not (folder / "checkpoints").exists() and not (folder / "metrics.csv").exists():
        for name in ("config.yaml", "environment.json"):
            (folder / name).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def git_commit() -> str | None:
    """The project's commit, with -dirty where files differ from it; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def read_config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def add_metrics(folder: Path, metrics: dict[str, float]) -> dict[str, float]:
    """Merge into metrics.json, flat names to final values; returns the whole."""
    path = folder / "metrics.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    merged = dict(sorted((known | metrics).items()))
    write_json(path, merged)
    return merged
