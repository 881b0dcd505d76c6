"""From a batch to a loss, on one page.

Shapes: B samples per rank, W ranks, N = W*B, V views, F features, D embedding dimensions.
"""

from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from repel import seeding
from repel.data.pair import Pair
from repel.distributed import gather
from repel.optim import Schedule, parameter_groups


class Diverged(RuntimeError):
    """The loss is not finite."""


class Contrastive(LightningModule):
    """Encoder, projection head and a loss.

    Args:
        encoder: (B, ...) -> h (B, F).
        head: h (B, F) -> z (B, D).
        loss: see repel/losses/__init__.py.
        optimizer: the optimiser's class with its hyperparameters.
        schedule: time in epochs -> factor of the learning rate.
        seed: of what the network itself draws, such as dropout.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        seed: int,
    ):
        super().__init__()
        self.encoder, self.head, self.loss = encoder, head, loss
        self.optimizer, self.schedule, self.seed = optimizer, schedule, seed

    def forward(self, x: Tensor) -> Tensor:
        """What evaluation and users take: h (B, F)."""
        return self.encoder(x)

    def on_train_batch_start(self, batch: Pair, batch_idx: int) -> None:
        # counted randomness for dropout and the like: other masks on every rank and step, the same after a resume
        torch.manual_seed(seeding.mix(self.seed, seeding.NETWORK, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        loss = self.contrast(batch)
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {loss.item()} at step {self.global_step} (epoch {self.current_epoch})")
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        return loss

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        self.log("val/loss", self.contrast(batch), on_epoch=True, sync_dist=True, batch_size=len(batch.ids))

    def contrast(self, batch: Pair) -> Tensor:
        """Views (V, B, ...) -> the loss of this rank's B anchors against the candidates of all ranks."""
        V, B = batch.views.shape[:2]
        h = self.encoder(batch.views.flatten(0, 1))  # (V*B, F): one pass, so that batch norm sees all views together
        z = self.head(h).unflatten(0, (V, B))  # (V, B, D)
        z = gather(z.transpose(0, 1)).transpose(0, 1)  # (V, N, D)
        labels = None if batch.labels is None else gather(batch.labels)
        local = slice(self.global_rank * B, (self.global_rank + 1) * B)
        return self.loss(z, labels, gather(batch.ids), local)

    def configure_optimizers(self) -> dict:
        modules = [self.encoder, self.head, self.loss]
        optimizer = self.optimizer(parameter_groups(modules, self.optimizer.keywords["weight_decay"]))
        # not trainer.estimated_stepping_batches, which would read the data a second time
        per_epoch = -(-self.trainer.datamodule.batches_per_epoch() // self.trainer.accumulate_grad_batches)
        factor = LambdaLR(optimizer, lambda step: self.schedule((step + 0.5) / per_epoch))  # the middle of the step
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}
