"""Runs side by side: cells over seeds, their curves, what of a sweep is still missing. Reads files alone."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException

from repel.cli.sweeps import as_typed, identity, key_and_value, typed_overrides
from repel.engine import run_lock, runs

ASIDE = ("seed", "name", "resume", "data_root", "sweep", "hydra")  # overrides that do not make a cell
DONE = ("finished", "pruned")


@dataclass
class Run:
    """One run as its folder tells it: finished, pruned, diverged, running, failed, interrupted or unreadable."""

    folder: Path
    state: str
    seed: int | None = None
    cell: dict[str, str] = field(default_factory=dict)  # overrides but for those aside
    metrics: dict[str, float] = field(default_factory=dict)
    data: str = ""  # what it was trained and measured on
    headline: str = "best"  # the checkpoint of test/x; this one before there was evaluation.checkpoint
    samples: str | None = None  # a digest of which samples are in which split; None where it is not known


def read(folder: Path) -> list[Run]:
    """Every training run in the folder, at any depth, by path; unreadable files are no error."""
    places = sorted({p.parent for n in ("config.yaml", "environment.json") for p in folder.rglob(n)}, key=by_number)
    return [run for run in map(read_run, places) if run is not None]


def by_number(folder: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in folder.parts]


def read_run(folder: Path) -> Run | None:
    """None where another command left the folder, such as evaluate.py."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        if "trainer" not in config:
            return None
        run = Run(folder, state(folder, environment), config["seed"], cell_of(environment["overrides"]))
        run.data = data_of(config)
        run.headline = (config.get("evaluation") or {}).get("checkpoint", run.headline)
        run.samples = environment.get("data")
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return Run(folder, "unreadable")
    try:
        run.metrics = runs.read_metrics(folder)
    except (OSError, ValueError):
        run.state = "unreadable" if run.state in DONE else run.state
    return run


def data_of(config: dict[str, Any]) -> str:
    """The data of a run's config, in a few words: its reader, the folder it reads, the table of labels."""
    data = config.get("data") or {}
    reader = str(((data.get("datamodule") or {}).get("read") or {}).get("_target_", "")).rsplit(".", 1)[-1]
    return reader + "".join(
        f" {word} {data[key]}" for word, key in (("in", "root"), ("with", "labels")) if data.get(key)
    )


def state(folder: Path, environment: dict[str, Any]) -> str:
    if "outcome" in environment:
        return environment["outcome"]
    if run_lock.is_locked(folder):
        return "running"
    return "failed" if (folder / "error.txt").exists() else "interrupted"


def cell_of(overrides: list[str]) -> dict[str, str]:
    """Key -> value, equal values spelled alike, of the overrides that make a cell."""
    pairs = ((key.lstrip("+"), value) for key, value in map(_key_and_value, overrides))
    return {key: value for key, value in pairs if key.split(".")[0] not in ASIDE}


def _key_and_value(override: str) -> tuple[str, str]:
    try:
        return key_and_value(override)
    except HydraException:  # of a command that Hydra did not read
        key, _, value = override.partition("=")
        return key, value


def with_other_data(found: list[Run]) -> list[Run]:
    """Runs whose data differs from that of an earlier run of the same data options: they compare other things."""
    first: dict[tuple, str] = {}
    others = []
    for run in found:
        options = tuple(sorted((k, v) for k, v in run.cell.items() if k.split(".")[0] in ("data", "experiment")))
        if run.samples is not None and first.setdefault(options, run.samples) != run.samples:
            others.append(run)
    return others


def missing(folder: Path, found: list[Run]) -> list[str]:
    """The jobs that the sweep's last command asked for and that have no folder yet, as overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not (typed := typed_overrides(folder)):
        return []
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)[0]
    there = set()
    for run in found:
        if run.state != "unreadable":
            there.add(identity(json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["overrides"]))
    varied = {o.split("=")[0] for job in jobs for o in job if not all(o in other for other in jobs)}
    return [" ".join(o for o in job if o.split("=")[0] in varied) for job in jobs if identity(job) not in there]


@dataclass
class Cell:
    """The runs whose overrides differ in the seed alone; of two with the same seed the later counts."""

    name: str
    overrides: dict[str, str]
    runs: dict[int, Run] = field(default_factory=dict)  # finished ones, by seed
    under_way: list[Run] = field(default_factory=list)

    @property
    def data(self) -> str:
        return next((run.data for run in [*self.runs.values(), *self.under_way]), "")

    def values(self, metric: str) -> dict[int, float]:
        return {seed: run.metrics[metric] for seed, run in self.runs.items() if metric in run.metrics}


def cells(found: list[Run]) -> tuple[list[Cell], dict[str, str]]:
    """Cells in the order in which they were run, and the overrides that all of them share."""
    grouped: dict[tuple, Cell] = {}
    known = [run for run in found if run.state != "unreadable"]
    keys = list(dict.fromkeys(key for run in known for key in run.cell))
    varied = [key for key in keys if len({run.cell.get(key) for run in known}) > 1]
    for run in known:
        here = {key: run.cell[key] for key in varied if key in run.cell}
        name = as_typed(here) or "(default)"
        cell = grouped.setdefault(tuple(sorted(here.items())), Cell(name, here))
        if run.state in DONE:
            assert run.seed is not None, "a run that ended has a config"
            cell.runs[run.seed] = run
        else:
            cell.under_way.append(run)
    return list(grouped.values()), {key: known[0].cell[key] for key in keys if key not in varied}


def history(run: Run, column: str) -> dict[int, float]:
    """Epoch, from 1 -> the column's last value in it, of metrics.csv; empty while there is none."""
    try:
        with (run.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get(column) and row.get("epoch")]
        return {int(row["epoch"]) + 1: float(row[column]) for row in rows}
    except (OSError, ValueError):  # absent, or being written
        return {}


def curve(cell: Cell, column: str) -> dict[int, list[float]]:
    """Epoch -> the values of a cell's finished runs, or while there are none of those under way.

    Only epochs that each of them has reached: a mean over other runs from epoch to epoch would jump.
    """
    members = list(cell.runs.values()) or cell.under_way
    found = [h for run in members if (h := history(run, column))]
    common = set.intersection(*(set(h) for h in found)) if found else set()
    return {epoch: [h[epoch] for h in found] for epoch in sorted(common)}


def known_metrics(found: list[Run]) -> list[str]:
    """What finished runs have measured."""
    return sorted({name for run in found if run.state in DONE for name in run.metrics})


def baselines_of(metric: str, known: list[str]) -> list[str]:
    """The baselines of exactly a metric, on its split: baseline/raw_knn_top1 for test/knn_top1, no other task's.

    >>> known = ["baseline/raw_knn_top1", "baseline/raw_season_knn_top1", "test/knn_top1", "test/season_knn_top1"]
    >>> baselines_of("test/knn_top1", known), baselines_of("test/season_knn_top1", known)
    (['baseline/raw_knn_top1'], ['baseline/raw_season_knn_top1'])
    """
    split, _, key = metric.partition("/")
    start = {"test": "baseline/", "val": "val/baseline_"}.get(split)
    if start is None:
        return []
    for part in ("last_", "best_", "z_"):  # of the checkpoint and the layer, which baselines have none of
        key = key.removeprefix(part)
    end = f"_{key}"
    tasks = [
        name[len(split) :].removesuffix(end) for name in known if name.startswith(f"{split}/") and name.endswith(end)
    ]
    sources = {
        name: name[len(start) :].removesuffix(end) for name in known if name.startswith(start) and name.endswith(end)
    }
    return [name for name, source in sources.items() if not any(source.endswith(f"_{task[1:]}") for task in tasks)]
