"""metrics.csv, and Weights & Biases."""

import csv
import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from repel.base.installation import install_extra


class CSVHistory(CSVLogger):
    """`metrics.csv` in the run folder itself; a resumed run goes on with its history, where Lightning's deletes it.

    Args:
        save_dir: folder.
        purge_step: steps from here on are about to be trained again, and their rows are dropped; None: a new run.
    """

    def __init__(self, save_dir: str, purge_step: int | None):
        super().__init__(save_dir, name="", version="")
        self.purge_step = purge_step

    @property
    @rank_zero_experiment  # the others would rewrite the same file
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = HistoryWriter(self.log_dir, self.purge_step)
        return self._experiment

    def log_hyperparams(self, params: object = None) -> None:
        """Nothing: the run's config.yaml has them."""


def wandb_logger(save_dir: str, project: str, offline: bool) -> Logger:
    """Lightning's logger for Weights & Biases, in the run folder; run names are the folders'.

    Raises:
        ValueError: wandb is missing.
    """
    from lightning.pytorch.loggers import WandbLogger

    try:
        return WandbLogger(name=Path(save_dir).name, save_dir=save_dir, project=project, offline=offline)
    except ModuleNotFoundError as error:
        raise ValueError(f"logger=wandb needs wandb: {install_extra('wandb')}") from error


class HistoryWriter(ExperimentWriter):
    """Whatever a kill leaves of the file, whole rows stay, and it can be gone on with."""

    def __init__(self, folder: str, purge_step: int | None):
        self.purge_step = purge_step
        super().__init__(folder)
        path = Path(self.metrics_file_path)
        if not path.exists():
            return
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        rows = [row for row in csv.DictReader(lines) if row.get("step", "").isdigit() and None not in row.values()]
        if kept := [row for row in rows if int(row["step"]) < (purge_step or 0)]:
            self.metrics_keys = list(kept[0])
            self.write(kept)
        else:
            path.unlink()

    def write(self, rows: list[dict[str, str]]) -> None:
        temporary = f"{self.metrics_file_path}.tmp"
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.metrics_file_path)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """As Lightning's, but whole or not at all."""
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        self.write(rows)

    def _check_log_dir_exists(self) -> None:
        """The folder always exists and holds the config; nothing in it is to be deleted."""
