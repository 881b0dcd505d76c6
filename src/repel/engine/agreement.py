"""What the ranks of a run do together or not at all."""

import math
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from repel.base.collectives import gather, world_size
from repel.base.signals import Asked, Stopped
from repel.data.pair import Pair
from repel.engine.checkpoints import save_last
from repel.module import Diverged


class Together(Callback):
    """What one rank must not do alone; the first of the callbacks, so that no other looks at what is refused here.

    A loss that is no finite number, on any rank, raises Diverged on all of them before the optimiser steps. A signal to
    any rank is told to all, for StopTogether. Data that are not the same on all ranks end the epoch at its start.

    It costs one exchange of two numbers a batch, beside the backward pass, which also gives `train/loss`: the mean over
    the ranks, as each has the loss of its own anchors.

    Args:
        asked: holds the signal that came to this rank.
    """

    def __init__(self, asked: Asked):
        self.asked, self.stop = asked, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning's own handler exchanges data among the ranks, in the middle of whatever they exchange, and hangs
        trainer._signal_connector.register_signal_handlers = lambda: None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_same(trainer.datamodule.sizes(), pl_module.device)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.send(pl_module.step_output.loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = self.receive()
        for rank, loss in enumerate(losses):
            if not math.isfinite(loss):
                whose = f" on rank {rank}" if trainer.world_size > 1 else ""
                when = f"at step {trainer.global_step} (epoch {trainer.current_epoch})"
                raise Diverged(f"the loss is {loss}{whose} {when}")
        mean = pl_module.step_output.loss.new_tensor(sum(losses) / len(losses))
        pl_module.log("train/loss", mean, on_step=True, on_epoch=False, prog_bar=True)

    def send(self, loss: Tensor) -> None:
        """Begin to tell the other ranks this one's loss and signal."""
        mine = torch.stack([loss.double(), loss.new_tensor(self.asked.number, dtype=torch.float64)])
        self.told, self.work = [mine], None
        if world_size() > 1:
            self.told = [torch.empty_like(mine) for _ in range(world_size())]
            self.work = dist.all_gather(self.told, mine, async_op=True)

    def receive(self) -> list[float]:
        """The ranks' losses; the signal that came to any of them is in `stop`."""
        if self.work is not None:
            self.work.wait()
        losses, signals = zip(*torch.stack(self.told).tolist(), strict=True)
        self.stop = int(max(signals))
        return list(losses)


class StopTogether(Checkpoint):  # as one, Lightning calls it after all other callbacks
    """Stops all ranks after the same optimiser step, with `last.ckpt` as of that step.

    During validation, after it and the epoch's own checkpoint.
    """

    def __init__(self, together: Together):
        self.together, self.saved = together, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        stepped = progress.current.processed % trainer.accumulate_grad_batches == 0
        # not at the epoch's end: validation comes first, and then the epoch's own checkpoint
        if self.together.stop and stepped and not progress.is_last_batch:
            save_last(trainer)
            self.saved = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Pair, batch_idx: int) -> None:
        if self.saved:  # not before: Lightning hands a step's values to the loggers when the step's hooks are done
            self.end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.together.send(torch.zeros((), device=pl_module.device))
        self.together.receive()
        if self.together.stop:
            self.end(trainer)

    def end(self, trainer: Trainer) -> None:
        self.together.asked.number = 0  # answered
        if trainer.is_global_zero:
            print(f"stopped  after step {trainer.global_step}", flush=True)
        raise Stopped(self.together.stop)


def check_same(sizes: dict[str, int], device: torch.device) -> None:
    """Raises RuntimeError where a rank has other sizes than the first: it would wait, or compare other samples."""
    found = gather(torch.tensor([list(sizes.values())], device=device)).tolist()
    for rank, values in enumerate(found):
        for name, mine, first in zip(sizes, values, found[0], strict=True):
            if mine != first:
                raise RuntimeError(f"rank {rank} has {mine} {name} and rank 0 has {first}: all must read the same data")
