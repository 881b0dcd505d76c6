"""From a batch to a loss, on one page.

Shapes: B samples per rank, W ranks, N = W*B, V views, F features, D embedding dimensions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from repel.base import seeding
from repel.base.collectives import gather
from repel.data.pair import Pair
from repel.losses.base import Loss
from repel.model.anneal import Anneal
from repel.model.ema import EMA
from repel.model.optim import Schedule, parameter_groups


class Diverged(RuntimeError):
    """The loss or a weight is no finite number."""


class Step(NamedTuple):
    """What a batch came to, without gradient: for the loss's memory, and for callbacks that look at it.

    h: (V*B, F) features of this rank's views. z: (V, N, D) embeddings of all ranks. keys: (V, N, D), what they were
    compared with, the target's where there is one. labels, ids: (N,), labels or None.
    """

    h: Tensor
    z: Tensor
    keys: Tensor
    labels: Tensor | None
    ids: Tensor


class Contrastive(LightningModule):
    """Encoder, projection head and a loss; a predictor and a momentum target if asked for.

    Args:
        encoder: (B, ...) -> h (B, F).
        head: h (B, F) -> z (B, D).
        predictor: z (B, D) -> z (B, D) of the anchors, or None.
        loss: see repel/losses/__init__.py.
        target: the momentum network, or None.
        anneal: what changes during training.
        optimizer: the optimiser's class with its hyperparameters.
        schedule: time in epochs -> factor of the learning rate.
        seed: of what the network itself draws, such as dropout.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        predictor: nn.Module | None,
        loss: Loss,
        target: EMA | None,
        anneal: Anneal,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        seed: int,
    ):
        super().__init__()
        self.encoder, self.head, self.predictor, self.loss, self.target = encoder, head, predictor, loss, target
        self.anneal, self.optimizer, self.schedule, self.seed = anneal, optimizer, schedule, seed

    def forward(self, x: Tensor) -> Tensor:
        """What evaluation and users take: h (B, F)."""
        return self.encoder(x)

    def on_train_batch_start(self, batch: Pair, batch_idx: int) -> None:
        # counted randomness for dropout and the like: other masks on every rank and step, the same after a resume
        torch.manual_seed(seeding.mix(self.seed, seeding.NETWORK, self.current_epoch, batch_idx, self.global_rank))
        self.set_annealed(batch_idx)

    def set_annealed(self, batch_idx: int) -> None:
        time = self.current_epoch + batch_idx / self.trainer.datamodule.batches_per_epoch()
        parts = {"loss": self.loss, "negatives": getattr(self.loss, "negatives", None), "target": self.target}
        for key, value in self.anneal.apply(parts, time).items():
            self.log(f"anneal/{key}", float(value))

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        loss, self.last = self.contrast(batch)
        self.value = loss.detach()  # logged in together.py, as the mean over ranks, where it is also seen to be finite
        return loss

    def on_after_backward(self) -> None:
        # not before: blocks of rows may be computed a second time in backward
        self.statistics = self.loss.statistics()
        self.log_dict(self.statistics, sync_dist=True)
        self.loss.update(self.last.keys, self.last.labels, self.last.ids)

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.target is not None:
            self.target.follow(self.encoder, self.head)

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        loss, _ = self.contrast(batch)
        self.log("val/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(batch.ids))

    def contrast(self, batch: Pair) -> tuple[Tensor, Step]:
        """Views (V, B, ...) -> the loss of this rank's B anchors against the candidates of all ranks."""
        B = batch.views.shape[1]
        x = batch.views.flatten(0, 1)  # one pass for all views, so that batch norm sees them together

        def of_all_ranks(z: Tensor) -> Tensor:  # (V*B, D) -> (V, N, D)
            return gather(z.unflatten(0, (-1, B)).transpose(0, 1)).transpose(0, 1)

        def predicted(projection: Tensor) -> Tensor:
            return of_all_ranks(projection if self.predictor is None else self.predictor(projection))

        h = self.encoder(x)  # (V*B, F)
        projection = self.head(h)  # (V*B, D)
        z, further = predicted(projection), {}
        if batch.crops is not None:
            further["crops"] = predicted(self.head(self.encoder(batch.crops.flatten(0, 1))))
        target = None
        if self.target is not None:
            target = of_all_ranks(self.target(x))
        elif self.predictor is not None:
            target = of_all_ranks(projection.detach())
        labels, ids = None if batch.labels is None else gather(batch.labels), gather(batch.ids)
        local = slice(self.global_rank * B, (self.global_rank + 1) * B)
        loss = self.loss(z, labels, ids, local, target, **further)
        keys = z if target is None else target
        return loss, Step(h.detach(), z.detach(), keys.detach(), labels, ids)

    def configure_optimizers(self) -> dict:
        modules = [m for m in (self.encoder, self.head, self.predictor, self.loss) if m is not None]
        optimizer = self.optimizer(parameter_groups(modules, self.optimizer.keywords["weight_decay"]))
        # not trainer.estimated_stepping_batches, which would read the data a second time
        per_epoch = -(-self.trainer.datamodule.batches_per_epoch() // self.trainer.accumulate_grad_batches)
        factor = LambdaLR(optimizer, lambda step: self.schedule((step + 0.5) / per_epoch))  # the middle of the step
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}
