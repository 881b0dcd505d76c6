"""Loggers of services such as Weights & Biases: opened for a job, and closed with its outcome."""

import os
import sys
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from repel.base.installation import install_extra

__all__ = ["close_loggers", "keep_logger", "mlflow_logger", "wandb_logger"]

STOPPED = 128  # exit statuses of signals are above it
OFFLINE = ("offline", "dryrun", "disabled")  # of $WANDB_MODE
_loggers: list[Logger] = []  # of this process's job


def keep_logger(logger: Logger) -> Logger:
    """Returns the logger, for close_loggers to close."""
    _loggers.append(logger)
    return logger


def close_loggers(status: int) -> None:
    """End what this process's job logs to, with its exit status: services then show how it ended.

    Lightning ends no run of Weights & Biases, which would go on in a sweep's next job; and when training is done, it
    tells all others of success, whatever follows. What fails here is a line: the job's outcome is settled.
    """
    loggers = list(_loggers)
    _loggers.clear()
    for logger in loggers if status else ():
        word = "KILLED" if status > STOPPED and isinstance(logger, MLFlowLogger) else "failed"
        try:
            logger.finalize(word)
        except Exception as error:
            print(f"note     {type(logger).__name__} could not be closed: {error}", file=sys.stderr)
    if (wandb := sys.modules.get("wandb")) is not None:
        try:
            if wandb.run is not None:
                wandb.finish(exit_code=status)
            wandb.teardown(exit_code=status)  # its settings are of this job's environment
        except Exception as error:
            print(f"note     wandb could not be closed: {error}", file=sys.stderr)


def wandb_logger(save_dir: str, project: str, offline: bool) -> Logger:
    """Lightning's logger for Weights & Biases, in the run folder; run names are the folders'.

    A run that resumes goes on in its own W&B run, whose id is in the names of the folders that wandb makes.

    Raises:
        ValueError: wandb is missing, or has no account, or cannot reach its server.
    """
    from lightning.pytorch.loggers import WandbLogger

    # run-DATE_TIME-ID, or offline-run-DATE_TIME-ID
    begun = sorted(folder.name.partition("run-")[2] for folder in Path(save_dir).glob("wandb/*run-*-*"))
    run = begun[-1].partition("-")[2] if begun else None
    try:
        logger = WandbLogger(name=Path(save_dir).name, save_dir=save_dir, project=project, offline=offline, id=run)
    except ModuleNotFoundError as error:
        raise ValueError(f"logger=wandb needs wandb: {install_extra('wandb')}") from error
    if not offline and os.environ.get("WANDB_MODE", "online") not in OFFLINE:
        _log_in()
    return logger


def mlflow_logger(save_dir: str, project: str, tracking_uri: str | None) -> Logger:
    """Lightning's logger for MLflow; runs have the names of their folders.

    A run that resumes goes on in its own MLflow run, whose id is in `mlflow.txt` in its folder.

    Args:
        save_dir: the run folder.
        project: the experiment's name.
        tracking_uri: None: $MLFLOW_TRACKING_URI, or mlflow.db in the working directory, MLflow's own default.

    Raises:
        ValueError: mlflow is missing, or its server or database cannot be reached.
    """
    from lightning.pytorch.loggers import MLFlowLogger

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    note = Path(save_dir) / "mlflow.txt"
    run = note.read_text(encoding="utf-8").strip() if note.exists() else None
    try:
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError as error:
        raise ValueError(f"logger=mlflow needs mlflow: {install_extra('mlflow')}") from error
    try:
        logger = MLFlowLogger(project, run_name=Path(save_dir).name, tracking_uri=uri, run_id=run)
        _begin_mlflow(logger, note)
    except MlflowException as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"logger=mlflow: {uri}: {reason}; set logger.mlflow.tracking_uri=URI") from error
    return logger


@rank_zero_only
def _begin_mlflow(logger: MLFlowLogger, note: Path) -> None:
    """Make the run now, not when the data has been read."""
    run = logger.run_id
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{run}\n", encoding="utf-8")


@rank_zero_only
def _log_in() -> None:
    """Now, not when the data has been read. On a terminal wandb asks for the key.

    Raises:
        ValueError: no account, or no connection.
    """
    import wandb

    instead = "run `wandb login`, set WANDB_API_KEY, or log here by logger.wandb.offline=true and `wandb sync` later"
    try:
        known = wandb.login()
    except wandb.Error as error:
        raise ValueError(f"logger=wandb: {' '.join(str(error).split()).rstrip('.')}; {instead}") from error
    if not known:
        raise ValueError(f"logger=wandb: there is no account; {instead}")
