"""Speed and progress of training."""

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks.progress import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from repel.base.terminal import table_console
from repel.data.datamodule import pair_data
from repel.data.length import epoch_of, seconds_left
from repel.data.pair import Pair
from repel.monitoring.objective import CHOOSING

__all__ = ["Progress", "Speed"]


class Speed(Callback):
    """Logs, per epoch, `speed/samples_per_second` (over all ranks) and `speed/data_wait_fraction`.

    Data wait is the time from the end of a step to the batch's arrival in memory; making the views is not part of it,
    unless a thread makes them ahead.
    Validation and checkpoints between two epochs are not counted, nor is the first step of a run, which warms up.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.warm = False
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it when a run resumes within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.samples, self.waited, self.trained = 0, 0.0, 0.0
        self.step_ended = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, *_) -> None:
        now = time.perf_counter()
        if self.warm:
            self.samples += batch.batch_size * trainer.world_size
            self.waited += max(0.0, pair_data(trainer).fetched_at - self.step_ended)
            self.trained += now - self.step_ended
        self.warm, self.step_ended = True, now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trained:
            pl_module.log("speed/samples_per_second", self.samples / self.trained)
            pl_module.log("speed/data_wait_fraction", self.waited / self.trained)


class Progress(ProgressBar):
    """One bar for the whole run with samples/s and the time left; one line per epoch where the output is no terminal.

    Metrics are read on all ranks, although only the first prints: reading may reduce them over the ranks.
    """

    def __init__(self):
        super().__init__()
        self.enabled = True
        self.bar: RichProgress | None = None
        self.latest = ""
        self.loss: float | None = None  # of the last step in which values are logged

    def disable(self) -> None:
        self.enabled = False  # called by Lightning on all ranks but the first

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.samples = time.perf_counter(), 0
        self.noun = pair_data(trainer).splits.train.modality.noun
        self.first_step, self.steps = self._batches_done(trainer), math.inf
        if trainer.max_epochs not in (None, -1):
            self.steps = int(self.total_train_batches) * trainer.max_epochs
        if trainer.max_steps > 0:
            self.steps = min(self.steps, trainer.max_steps * trainer.accumulate_grad_batches)
        console = table_console()
        if self.enabled and console.is_terminal:
            self.bar = RichProgress(
                "{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[speed]}",
                TimeElapsedColumn(), "left", TimeRemainingColumn(), "{task.fields[metrics]}", console=console,
            )  # fmt: skip
            total = None if self.steps == math.inf else self.steps
            self.task = self.bar.add_task("", total=total, completed=self.first_step, speed="", metrics="")
            self.bar.start()

    def _batches_done(self, trainer: Trainer) -> int:
        return trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        self.samples += batch.batch_size * trainer.world_size
        if self.bar:
            every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
            if self.loss is None or (every and trainer.global_step % every == 0):  # reading it waits for a GPU
                self.loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            self.bar.update(
                self.task,
                completed=self._batches_done(trainer),
                description=f"epoch {epoch_of(trainer)}",
                speed=self._speed(),
                metrics=f"loss {self.loss:.4f}  {self.latest}",
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.latest = self._metrics(trainer, "val/loss", *CHOOSING, "val/recall_at_20")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = self._metrics(trainer, "train/loss")
        if self.enabled and not self.bar:
            elapsed, done = time.perf_counter() - self.started, self._batches_done(trainer)
            left = elapsed / max(1, done - self.first_step) * (self.steps - done)
            left = min(left, seconds_left(trainer))
            print(f"epoch {epoch_of(trainer)}  {loss}  {self.latest}  {self._speed()}  left {_clock(left)}", flush=True)

    def _speed(self) -> str:
        return f"{self.samples / (time.perf_counter() - self.started):,.0f} {self.noun}/s"

    def _metrics(self, trainer: Trainer, *names: str) -> str:
        known = trainer.callback_metrics
        return "  ".join(f"{name} {float(known[name]):.4f}" for name in names if name in known)

    def _close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()


def _clock(seconds: float) -> str:
    """1379.7 -> 23:00, and from an hour on 1:02:03, as the bar has it."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
