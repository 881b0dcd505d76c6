"""metrics.csv, and Weights & Biases."""

import csv
import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


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
        raise ValueError("logger=wandb needs wandb: pip install -e '.[wandb]'") from error


class HistoryWriter(ExperimentWriter):
    def __init__(self, folder: str, purge_step: int | None):
        self.purge_step = purge_step
        super().__init__(folder)
        try:
            with open(self.metrics_file_path, newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) < (purge_step or 0)]
        except FileNotFoundError:
            return
        os.unlink(self.metrics_file_path)
        if kept:
            self.metrics_keys = list(kept[0])
            with open(self.metrics_file_path, "w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
                writer.writeheader()
                writer.writerows(kept)

    def _check_log_dir_exists(self) -> None:
        """The folder always exists and holds the config; nothing in it is to be deleted."""
