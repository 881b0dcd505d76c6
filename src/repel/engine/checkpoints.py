"""Checkpoints: written atomically, plain containers and tensors only, the last and the best."""

import os
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from repel.module import Diverged


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: a kill or a full disk leaves the old file whole.

    (Lightning's own writer goes through $TMPDIR, which may be another file system, where a rename is a copy.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        check_plain(checkpoint)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")  # one name: what a kill leaves, the next save overwrites
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch words a full disk as a RuntimeError of its zip writer
            cause = error if isinstance(error, OSError) else error.__context__ or error
            kept = f"; {path.name} of before is as it was" if path.exists() else ""
            raise OSError(f"cannot write {path}: {cause}{kept}") from error
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


PLAIN = {str, bytes, int, float, bool, type(None), torch.Tensor, torch.nn.Parameter, torch.dtype, torch.Size}


def check_plain(value: Any, key: str = "checkpoint") -> None:
    """Refuse what torch.load(weights_only=True) would refuse later, when it is too late.

    Raises:
        TypeError: names the key and the type.
    """
    if type(value) in (dict, OrderedDict, defaultdict):
        for name, item in value.items():
            check_plain(name, f"a key of {key}")
            check_plain(item, f"{key}[{name!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            check_plain(item, f"{key}[{index}]")
    elif type(value) not in PLAIN:
        raise TypeError(f"{key} is a {type(value).__name__}; a checkpoint holds plain containers and tensors only")


def check_finite(module: LightningModule) -> None:
    """Raises Diverged where a weight is no number, so that no such weights ever replace good ones."""
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"{name} is no longer finite after step {module.global_step}")


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's contents on the CPU, without running any code in it.

    Raises:
        ValueError: no file, a damaged one, or not a checkpoint of this project; names the newest good one beside it.
    """
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{error}{instead(path)}") from error


def read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as records:
            changed = records.testzip()  # torch writes each record's CRC-32, and does not look at it
        contents = None if changed else torch.load(path, map_location="cpu", weights_only=True)
    # torch raises a dozen kinds for a damaged or foreign file, some with advice to unpickle it
    except Exception as error:
        raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from error
    if changed:
        raise ValueError(f"{path} is damaged or not a checkpoint (its record {changed} is not what was written)")
    if not isinstance(contents, dict) or "config" not in contents or "state_dict" not in contents:
        raise ValueError(f"{path} is not a checkpoint written by train.py")
    return contents


def instead(path: Path) -> str:
    """What to use in place of a bad file, in words: the newest good checkpoint of the same run."""
    others = sorted(path.parent.glob("*.ckpt"), key=lambda other: other.stat().st_mtime_ns, reverse=True)
    for other in others:
        if other != path:
            try:
                epoch = read(other)["epoch"] + 1
            except ValueError:
                continue
            return f"; {other.name} beside it is good, of epoch {epoch}: use resume={other} or ckpt={other}"
    return ""


def check_fits(module: LightningModule, contents: dict[str, Any], path: Path) -> None:
    """Raises ValueError where a checkpoint's weights are not those of this network; names the first."""
    ours, theirs = module.state_dict(), contents["state_dict"]
    for name in [n for n in dict.fromkeys([*ours, *theirs]) if not n.startswith("loss.")]:  # a queue grows
        here, there = (tuple(state[name].shape) if name in state else "absent" for state in (ours, theirs))
        if here != there:
            raise ValueError(
                f"{path} is of another network: {name} is {there} there and {here} here; use the code that wrote it"
            )


def path_of(trainer: Trainer, name: str) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"


def save_last(trainer: Trainer) -> None:
    """`last.ckpt`, the work of all ranks; raises Diverged instead where a weight is no number."""
    check_finite(trainer.lightning_module)
    trainer.save_checkpoint(path_of(trainer, "last"))


class LastCheckpoint(Checkpoint):
    """`last.ckpt`, after every epoch, whatever any metric does, and every n steps besides if asked.

    Args:
        every_n_train_steps: optimiser steps, or None.
    """

    def __init__(self, every_n_train_steps: int | None):
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(
                f"callbacks.last.every_n_train_steps must be null or at least 1, got {every_n_train_steps}"
            )
        self.every = every_n_train_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        stepped = (progress.current.processed % trainer.accumulate_grad_batches) == 0
        # not at the epoch's end: validation comes first, and then the epoch's own checkpoint
        if self.every and stepped and trainer.global_step % self.every == 0 and not progress.is_last_batch:
            save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        save_last(trainer)


def objective(metrics: dict[str, torch.Tensor]) -> float:
    """What is maximised, of a validation's metrics: val/knn_top1, or minus val/loss where that is not measured."""
    return float(metrics["val/knn_top1"] if "val/knn_top1" in metrics else -metrics["val/loss"])


class BestCheckpoint(Checkpoint):
    """`best.ckpt`: the highest val/knn_top1, or the lowest val/loss where that is not measured; the first of equals."""

    best: float | None = None  # more is better: the loss counts negative

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = objective(trainer.callback_metrics)
        value = trainer.strategy.broadcast(value)  # saving is the work of all ranks: they must agree
        if self.best is None or value > self.best:
            self.best = value
            trainer.save_checkpoint(path_of(trainer, "best"))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class ConfigInCheckpoint(Callback):
    """Every checkpoint carries its run's config, so that it can be used from the file alone."""

    def __init__(self, config: dict[str, Any]):
        self.config = config

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
