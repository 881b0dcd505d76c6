"""A run that goes on beyond the limits it had: trainer.max_epochs, trainer.max_steps, trainer.max_time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from repel.data.datamodule import PairData
from repel.data.length import TrainingLength, planned_length
from repel.engine import checkpoint_io
from repel.module import Contrastive

__all__ = ["LIMITS", "limit_reached", "prepare_resume"]

LIMITS = ("max_epochs", "max_steps", "max_time")  # of the trainer


def limit_reached(limits: Mapping[str, Any], contents: Mapping[str, Any]) -> str | None:
    """Which of the trainer's limits a checkpoint has come to; None where training goes on.

    Args:
        limits: the trainer's options.
        contents: of the checkpoint.
    """
    loop = contents["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]["processed"] - _is_cut(loop)
    seconds = contents["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0.0)
    done = {"max_epochs": epochs, "max_steps": contents["global_step"], "max_time": seconds}
    for name in LIMITS:
        limit = limits.get(name)
        if limit not in (None, -1) and done[name] >= (_seconds(limit) if name == "max_time" else limit):
            return name
    return None


def _seconds(time: str) -> int:
    """Of DD:HH:MM:SS."""
    days, hours, minutes, seconds = map(int, time.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def prepare_resume(
    cfg: DictConfig, trainer: Trainer, module: Contrastive, data: PairData, path: Path, contents: dict[str, Any]
) -> TrainingLength | None:
    """What is needed of a checkpoint before Lightning restores it; the run's limits may be others than before.

    With schedule.on_extend=stretch, learning rate and annealing end with the new limits from the next step on; with
    hold where they did. A run whose last epoch was cut short by its limit finishes that epoch first, as if there had
    been no limit.

    Args:
        path, contents: of the run's checkpoint; the contents are changed where the run goes on beyond its limits.

    Returns:
        The length that training had before; None where a checkpoint of version 0.1 does not say.

    Raises:
        ValueError: the checkpoint is of another network.
    """
    # Lightning would load the weights first, and so round those of 64-true to float32
    trainer.precision_plugin.convert_module(module)
    checkpoint_io.check_fits(module, contents, path)
    module.on_load_checkpoint(contents)  # as Lightning does later; the notes need it now
    before, now = module.length, planned_length(trainer, data.batches_per_epoch())
    if limit_reached(cfg.trainer, contents) is not None:
        return before
    stretched = before not in (None, now) and cfg.schedule.get("on_extend") == "stretch"
    if stretched:
        module.length = now
        contents["training_length"] = now._asdict()  # which Lightning has the module load a second time
    loop = contents["loops"]["fit_loop"]
    for part in ("current", "total") if _is_cut(loop) else ():
        loop["epoch_progress"][part]["processed"] -= 1
    trainer.callbacks.insert(0, _Corrections(stretched))  # type: ignore[attr-defined]
    return before


def _is_cut(loop: dict[str, Any]) -> bool:
    """Whether a checkpoint's last epoch was cut short by a limit. Lightning counts it as a whole one."""
    epoch, batch = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    return batch["current"]["processed"] > 0 and not batch["is_last_batch"] and epoch["processed"] == epoch["started"]


class _Corrections(Callback):
    """Of what Lightning restores: the next step's rate, where the run's end has changed, and its number."""

    def __init__(self, stretched: bool):
        self.stretched, self.counted = stretched, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Contrastive)
        for config in trainer.lr_scheduler_configs if self.stretched else ():
            scheduler: Any = config.scheduler
            rates = [base * pl_module.rate_factor(scheduler.last_epoch) for base in scheduler.base_lrs]
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            scheduler._last_lr = rates

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if not self.counted:  # under max_steps alone, Lightning counts one step too many after an epoch's end
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self.counted = True
