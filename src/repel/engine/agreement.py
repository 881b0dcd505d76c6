"""What the ranks of a run do all together or not at all: stop, and refuse a non-finite loss."""

import math
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from repel.base.collectives import gather, world_size
from repel.base.signals import DeferredSignals, Stopped
from repel.data.datamodule import pair_data
from repel.data.pair import Pair
from repel.engine.checkpoint_callbacks import optimizer_stepped, save_last, validation_follows
from repel.module import Contrastive, Diverged

__all__ = ["RankAgreement", "StopAllRanks", "check_same"]


class RankAgreement(Callback):
    """Exchanges every rank's loss and pending signal once per batch.

    A non-finite loss on any rank raises Diverged on all, before the optimizer steps. A signal to any rank reaches all,
    for StopAllRanks. Ranks that read different data fail at the start of an epoch. Must be the first callback, so that
    no other sees a loss that is refused here.

    The exchange is two numbers a batch, during the backward pass. It also gives `train/loss`: the mean over the ranks,
    as each has the loss of its own anchors.

    Args:
        signals: records a signal to this rank.
    """

    def __init__(self, signals: DeferredSignals):
        self.signals, self.stop = signals, 0
        self.exchange: _Exchange | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning's own handler exchanges data among the ranks, in the middle of whatever they exchange, and hangs
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_same(pair_data(trainer).sizes(), pl_module.device)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert isinstance(pl_module, Contrastive)
        self.send(pl_module.step_output.loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Contrastive)
        losses = self.receive()
        for rank, loss in enumerate(losses):
            if not math.isfinite(loss):
                whose = f" on rank {rank}" if trainer.world_size > 1 else ""
                when = f"at step {trainer.global_step} (epoch {trainer.current_epoch})"
                raise Diverged(f"the loss is {loss}{whose} {when}")
        mean = pl_module.step_output.loss.new_full((), sum(losses) / len(losses))
        pl_module.log("train/loss", mean, on_step=True, on_epoch=False, prog_bar=True)

    def send(self, loss: Tensor) -> None:
        """Start to gather all ranks' losses and signals."""
        number = loss.new_full((), self.signals.number, dtype=torch.float64)
        self.exchange = _Exchange(torch.stack([loss.double(), number]))

    def receive(self) -> list[float]:
        """The ranks' losses; the signal that reached any of them is in `stop`."""
        assert self.exchange is not None, "send was called"
        losses, signals = zip(*self.exchange.values(), strict=True)
        self.stop = int(max(signals))
        return list(losses)


class _Exchange:
    """Every rank's numbers (k,), on their way to all ranks and to the host.

    A GPU does all this on a stream of its own as soon as the numbers are known. The host then waits for the forward
    pass that made them, and not for the backward pass, which was begun after it: the GPU has that to do while the host
    asks, and prepares the optimizer's step. So a loss is still refused before a step is made with it, and no rank
    learns of a signal later than another.
    """

    def __init__(self, mine: Tensor):
        self.gathered: Tensor
        self.work: dist.Work | None = None
        self.arrived: torch.cuda.Event | None = None
        if not _has_streams(mine.device):
            self._gather(mine)
            return
        beside = torch.cuda.Stream(mine.device)
        beside.wait_stream(torch.cuda.current_stream(mine.device))
        with torch.cuda.stream(beside):
            self._gather(mine)
            if self.work is not None:
                self.work.wait()  # the stream does, not the host
            mine.record_stream(beside)
            self.gathered = self.gathered.to("cpu", non_blocking=True)
            self.arrived = beside.record_event()

    def _gather(self, mine: Tensor) -> None:
        self.gathered = mine[None]
        if world_size() > 1:
            self.gathered = mine.new_empty(world_size(), len(mine))
            self.work = dist.all_gather(list(self.gathered), mine, async_op=True)

    def values(self) -> list[list[float]]:
        """Of every rank."""
        if self.arrived is not None:
            self.arrived.synchronize()
        elif self.work is not None:
            self.work.wait()
        return self.gathered.tolist()


def _has_streams(device: torch.device) -> bool:
    return device.type == "cuda"


class StopAllRanks(Checkpoint):  # a Checkpoint, so that Lightning calls it after all other callbacks
    """Stops all ranks after the same optimizer step, with `last.ckpt` as of that step, and of a validation after it.

    A signal during validation takes effect after it and after the epoch's own checkpoint.
    """

    def __init__(self, agreement: RankAgreement):
        self.agreement, self.saved, self.due = agreement, False, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        if self.agreement.stop and optimizer_stepped(trainer):
            self.due = validation_follows(trainer)
            if not self.due:
                save_last(trainer)
                self.saved = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due:
            save_last(trainer)
            self.saved, self.due = True, False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Pair, batch_idx: int) -> None:
        if self.saved:  # not before: Lightning passes a step's values to the loggers after the step's hooks
            self._end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.agreement.send(torch.zeros((), device=pl_module.device))
        self.agreement.receive()
        if self.agreement.stop:
            self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        self.agreement.signals.number = 0  # handled
        if trainer.is_global_zero:
            print(f"stopped  after step {trainer.global_step}", flush=True)
        raise Stopped(self.agreement.stop)


def check_same(sizes: dict[str, int], device: torch.device) -> None:
    """Raises RuntimeError where a rank has other sizes than the first: it would wait, or compare other samples."""
    gathered = gather(torch.tensor([list(sizes.values())], device=device)).tolist()
    for rank, values in enumerate(gathered):
        for name, mine, first in zip(sizes, values, gathered[0], strict=True):
            if mine != first:
                raise RuntimeError(f"rank {rank} has {mine} {name} and rank 0 has {first}: all must read the same data")
