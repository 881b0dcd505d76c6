"""How long training lasts: where the learning rate's schedule, its warm-up and annealing end."""

import math
from typing import NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

__all__ = ["TrainingLength", "elapsed_seconds", "ends", "epoch_of", "planned_length", "seconds_left", "steps_per_epoch"]


class TrainingLength(NamedTuple):
    """Where training ends, as planned when it began: a run that is extended keeps it, so that its rate has no jump.

    epochs: the least that trainer.max_epochs and trainer.max_steps allow; math.inf where neither is set.
    seconds: trainer.max_time; math.inf where it is not set.
    """

    epochs: float
    seconds: float = math.inf

    def __str__(self) -> str:
        return " or ".join(f"{n:g} {unit}" for n, unit in zip(self, ("epochs", "seconds"), strict=True) if n < math.inf)

    def at(self, epoch: float, elapsed: float) -> float:
        """The length in epochs, seen from a time in epochs and the seconds of training it took.

        How many epochs fit into trainer.max_time is not known before: the pace so far tells. So what has come to
        epoch / length of its way has come to elapsed / seconds of it, and ends when the time does; progress by the
        share of the budget that is used (Li, Yumer, Ramanan 2020, arXiv:1905.04753). Without a limit of time
        the length is a constant.

        Example:
            >>> TrainingLength(epochs=25.0).at(5.0, elapsed=60.0)
            25.0
            >>> TrainingLength(epochs=25.0, seconds=120.0).at(5.0, elapsed=60.0)  # half of the time: 10 in all
            10.0
        """
        if self.seconds == math.inf or not (epoch > 0 and elapsed > 0):
            return self.epochs
        return min(self.epochs, epoch * self.seconds / elapsed)


def steps_per_epoch(trainer: Trainer, batches: int) -> int:
    """Optimizer steps; not by trainer.estimated_stepping_batches, which would read the data a second time."""
    return -(-batches // trainer.accumulate_grad_batches)


def planned_length(trainer: Trainer, batches: int) -> TrainingLength:
    """Where the trainer's limits end training, with so many batches an epoch."""
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs)
    if trainer.max_steps > 0:
        epochs = min(epochs, trainer.max_steps / steps_per_epoch(trainer, batches))
    timer = _timer(trainer)
    seconds = math.inf if timer is None else round(timer.time_elapsed() + (timer.time_remaining() or 0.0), 3)
    return TrainingLength(epochs, seconds)


def elapsed_seconds(trainer: Trainer) -> float:
    """Of training under trainer.max_time, by the first rank's clock; 0 without such a limit."""
    timer = _timer(trainer)
    return 0.0 if timer is None else trainer.strategy.broadcast(timer.time_elapsed())


def seconds_left(trainer: Trainer) -> float:
    """Of training under trainer.max_time, by this rank's clock; math.inf without such a limit."""
    timer = _timer(trainer)
    return math.inf if timer is None else max(0.0, timer.time_remaining() or 0.0)


def epoch_of(trainer: Trainer) -> str:
    """The current epoch in words, such as 3/25; 3 where their number has no limit."""
    limited = trainer.max_epochs not in (None, -1)
    return f"{trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if limited else "")


def ends(trainer: Trainer, time: str | None) -> str:
    """When training ends, in words, by the first limit that is reached."""
    limits = {"epochs": trainer.max_epochs, "steps": trainer.max_steps}
    words = [f"{limit} {unit}" for unit, limit in limits.items() if limit not in (None, -1)]
    return " or ".join([*words, *([f"{time} (DD:HH:MM:SS)"] if time else [])]) or "Lightning's default of epochs"


def _timer(trainer: Trainer) -> Timer | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    timers = (callback for callback in callbacks if isinstance(callback, Timer))
    return next((timer for timer in timers if timer.time_remaining() is not None), None)
