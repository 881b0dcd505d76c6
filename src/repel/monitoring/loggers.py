"""metrics.csv: the history of a run as a table."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

__all__ = ["CSVHistory"]


class CSVHistory(Logger):
    """`metrics.csv` in the run folder: a row each time something is logged. A resumed run continues its file.

    Args:
        save_dir: folder.
        purge_step: rows from this step on are dropped, as these steps are about to be trained again; None: a new run.
    """

    name, version = "", ""

    def __init__(self, save_dir: str, purge_step: int | None):
        super().__init__()
        self.folder, self.purge_step = save_dir, purge_step
        self._file: _HistoryFile | None = None

    @property
    def save_dir(self) -> str:
        return self.folder

    @property
    @rank_zero_experiment  # the other ranks would write the same file
    def experiment(self) -> "_HistoryFile":
        """The file. Lightning asks for it before training, and so rows are purged before any is written."""
        if self._file is None:
            self._file = _HistoryFile(Path(self.folder) / "metrics.csv", self.purge_step)
        return self._file

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        assert step is not None, "Lightning counts the steps"
        self.experiment.add(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: the run's config.yaml has them."""

    @rank_zero_only
    def save(self) -> None:
        self.experiment.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file is not None:
            self._file.save()


class _HistoryFile:
    """Rows of metrics, with a column for every name that ever occurred. A kill at any time leaves whole rows."""

    def __init__(self, path: Path, purge_step: int | None):
        self.path = path
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []  # not saved yet
        if not path.exists():
            return
        # a kill may have torn the last row
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        rows = [row for row in csv.DictReader(lines) if (row.get("step") or "").isdigit() and None not in row.values()]
        if kept := [row for row in rows if int(row["step"]) < (purge_step or 0)]:
            self.columns = list(kept[0])
            self._write_anew(kept)
        else:
            path.unlink()

    def add(self, metrics: Mapping[str, Tensor | float], step: int) -> None:
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self.rows.append(values | {"step": step})

    def save(self) -> None:
        """Append the rows since the last save."""
        if not self.rows:
            return
        exists = self.path.exists()
        if new := set().union(*self.rows) - set(self.columns):
            self.columns = sorted([*self.columns, *new])
            if exists:
                with self.path.open(newline="", encoding="utf-8") as file:
                    saved = list(csv.DictReader(file))
                self._write_anew(saved)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.columns)
            if not exists:
                writer.writeheader()
            writer.writerows(self.rows)
        self.rows = []

    def _write_anew(self, rows: list[dict[str, str]]) -> None:
        """All of the file, or nothing."""
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)
