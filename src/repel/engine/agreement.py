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
        self.gathered: list[Tensor] = []
        self.work: dist.Work | None = None

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
        mean = pl_module.step_output.loss.new_tensor(sum(losses) / len(losses))
        log_step_value(trainer, pl_module, "train/loss", mean)

    def send(self, loss: Tensor) -> None:
        """Start to gather all ranks' losses and signals."""
        mine = torch.stack([loss.double(), loss.new_tensor(self.signals.number, dtype=torch.float64)])
        self.gathered, self.work = [mine], None
        if world_size() > 1:
            self.gathered = [torch.empty_like(mine) for _ in range(world_size())]
            self.work = dist.all_gather(self.gathered, mine, async_op=True)

    def receive(self) -> list[float]:
        """The ranks' losses; the signal that reached any of them is in `stop`."""
        if self.work is not None:
            self.work.wait()
        losses, signals = zip(*torch.stack(self.gathered).tolist(), strict=True)
        self.stop = int(max(signals))
        return list(losses)


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


def log_step_value(trainer: Trainer, module: LightningModule, name: str, value: Tensor) -> None:
    """module.log() of each step's value, to be called once in a step: the same, in a twentieth of its time.

    What module.log() checks and prepares is the same in all steps of an epoch. It does so in the first one; afterwards
    Lightning's record of this value is updated alone.
    """
    record = trainer._results.get(key := f"{module._current_fx_name}.{name}")  # type: ignore[union-attr]
    if record is None or record.has_reset:
        module.log(name, value, on_step=True, on_epoch=False, prog_bar=True)
    else:
        trainer._results.update_metrics(key, value, batch_size=1)  # type: ignore[union-attr]


def check_same(sizes: dict[str, int], device: torch.device) -> None:
    """Raises RuntimeError where a rank has other sizes than the first: it would wait, or compare other samples."""
    gathered = gather(torch.tensor([list(sizes.values())], device=device)).tolist()
    for rank, values in enumerate(gathered):
        for name, mine, first in zip(sizes, values, gathered[0], strict=True):
            if mine != first:
                raise RuntimeError(f"rank {rank} has {mine} {name} and rank 0 has {first}: all must read the same data")
