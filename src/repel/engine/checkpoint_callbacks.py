"""Callbacks that write checkpoints: the last one, the best one, and the config inside each."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from repel.data.datamodule import pair_data
from repel.data.identity import Record, record_of
from repel.module import Diverged
from repel.monitoring.objective import objective, objective_name

__all__ = [
    "BestCheckpoint",
    "ConfigInCheckpoint",
    "LastCheckpoint",
    "optimizer_stepped",
    "save_last",
    "validation_follows",
]


def save_last(trainer: Trainer) -> None:
    """Write `last.ckpt`, the work of all ranks. Non-finite weights raise Diverged and never replace good ones."""
    module = trainer.lightning_module
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"{name} is no longer finite after step {module.global_step}")
    trainer.save_checkpoint(_path(trainer, "last"))


def optimizer_stepped(trainer: Trainer) -> bool:
    """After a training batch: whether an optimizer step followed it, with more batches of this epoch to come.

    Not at the epoch's end: validation comes first, and then the epoch's own checkpoint.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    stepped = progress.current.processed % trainer.accumulate_grad_batches == 0  # type: ignore[attr-defined]
    return stepped and not progress.is_last_batch


def validation_follows(trainer: Trainer) -> bool:
    """After a training batch: whether validation comes before the next one, see trainer.val_check_interval.

    What resumes from a checkpoint of before would skip that validation, and with it what it chooses.
    """
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None, "it is training"
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


class LastCheckpoint(Checkpoint):
    """`last.ckpt` after every epoch, whatever any metric does, and every n steps besides if set.

    After a step that validation follows it is written after that. Must come after all other callbacks with a state.

    Args:
        every_n_train_steps: optimizer steps, or None.
    """

    def __init__(self, every_n_train_steps: int | None):
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(
                f"callbacks.last.every_n_train_steps must be null or at least 1, got {every_n_train_steps}"
            )
        self.every, self.due = every_n_train_steps, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.every and optimizer_stepped(trainer) and trainer.global_step % self.every == 0:
            self.due = validation_follows(trainer)
            if not self.due:
                save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due:
            save_last(trainer)
            self.due = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        save_last(trainer)


class BestCheckpoint(Checkpoint):
    """`best.ckpt`: the highest val/ndcg_at_20 or val/knn_top1, of equals the one with the lowest val/loss; without
    either, the lowest val/loss. A metric that is the same in every epoch thus leaves the choice to the loss.
    """

    best: float | None = None  # more is better: the loss counts negative
    loss: float | None = None  # val/loss of that epoch; None: not known, of a run of the first edition
    metric: str | None = None  # which one chose; None: likewise

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:  # of an untrained network, on a few batches
            return
        metrics = trainer.callback_metrics
        metric = objective_name(metrics)
        # saving is the work of all ranks: they must agree
        value, loss = trainer.strategy.broadcast((objective(metrics), float(metrics["val/loss"])))
        if metric != (self.metric or "val/knn_top1"):  # the first edition's val/loss was of other batches
            self.best = None  # what cannot be compared
        self.metric = metric
        if self.best is None or math.isnan(self.best) or value > self.best or self._breaks_tie(value, loss):
            self.best, self.loss = value, loss
            trainer.save_checkpoint(_path(trainer, "best"))

    def _breaks_tie(self, value: float, loss: float) -> bool:
        return value == self.best and self.loss is not None and (loss < self.loss or math.isnan(self.loss))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "loss": self.loss, "metric": self.metric}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.loss, self.metric = (state_dict.get(key) for key in ("best", "loss", "metric"))


class ConfigInCheckpoint(Callback):
    """Every checkpoint carries its run's config, which samples it has, and what was learned from them before training,
    such as a tokenizer, so that the file alone can be used.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.samples: Record | None = None  # computed once

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        self.samples = self.samples or record_of(pair_data(trainer).splits)
        checkpoint["samples"] = self.samples
        if (transform := pair_data(trainer).transform) is not None:
            checkpoint["learned"] = transform.state_dict()


def _path(trainer: Trainer, name: str) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"
