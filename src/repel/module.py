"""From a batch to a loss, on one page.

Shapes: B samples per rank, W ranks, N = W*B, V views, F features, D embedding dimensions.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, full, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from repel.base import dropout, seeding
from repel.base.collectives import gather, gather_views, share, world_size
from repel.data.datamodule import pair_data
from repel.data.length import TrainingLength, elapsed_seconds, planned_length, steps_per_epoch
from repel.data.pair import Pair, ViewBatch, merge_negatives, merge_views
from repel.data.samples import DataInfo, give_info
from repel.losses.base import Loss
from repel.losses.ring import ring_loss
from repel.model.anneal import Anneal
from repel.model.ema import EMA
from repel.model.micro_batch import Network, in_micro_batches
from repel.model.optim import Schedule, fill_length, parameter_groups


class Diverged(RuntimeError):
    """The loss or a weight is not finite."""


class StepOutput(NamedTuple):
    """Detached outputs of one batch: for the loss's memory, and for callbacks. With gather=ring N is B, of this rank.

    loss: of this rank's anchors.
    h: (V*B, F) features of this rank's views.
    z: (V, N, D) embeddings of all ranks.
    keys: (V, N, D), what they were compared with: the target's embeddings where there is one.
    labels: (N,) or None.
    ids: (V, N), the entity that each view shows.
    further: what else the loss compared with: negatives, negative_ids, catalog, catalog_ids, where there are such.
    statistics: what the loss has to log, names -> scalars; known after the backward pass.
    """

    loss: Tensor
    h: Tensor
    z: Tensor
    keys: Tensor
    labels: Tensor | None
    ids: Tensor
    further: Mapping[str, Tensor] = MappingProxyType({})
    statistics: Mapping[str, Tensor] = MappingProxyType({})


class Contrastive(LightningModule):
    """Encoder, projection head and a loss; a predictor and a momentum target are optional.

    Args:
        encoder: (B, ...) -> h (B, F), of one view or of several after one another. Where the sides of a pair differ in
            kind, it gets a tuple with one batch a side and returns their features after one another, (V*B, F).
        head: h (B, F) -> z (B, D).
        predictor: z (B, D) -> z (B, D) of the anchors, or None.
        loss: see repel/losses/__init__.py.
        target: the momentum network, or None.
        anneal: what changes during training.
        optimizer: the optimizer's class with its hyperparameters.
        schedule: time in epochs -> factor of the learning rate.
        seed: of what the network itself draws, such as dropout.
        micro_batch: samples that a rank encodes at a time, at most; None: all of its batch.
        gather: all: each rank has the embeddings of all; ring: see ring_loss.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Module, predictor: nn.Module | None, loss: Loss, target: EMA | None,
        anneal: Anneal, optimizer: partial[Optimizer], schedule: Schedule, seed: int, micro_batch: int | None = None,
        gather: Literal["all", "ring"] = "all",
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.head, self.predictor, self.loss, self.target = encoder, head, predictor, loss, target
        self.anneal, self.optimizer, self.schedule, self.seed = anneal, optimizer, schedule, seed
        self.micro_batch, self.ring = micro_batch, gather == "ring"
        self.length: TrainingLength | None = None  # as planned when training began
        self._group_sizes: list[int] | None = None  # of the optimizer that the run resumes with
        self._step_output: StepOutput | None = None
        self._counted: list[dropout.NeedsCounters] = []  # in training: the parts that draw from counters
        self._draw_key = 0  # of this step

    def forward(self, x: Tensor) -> Tensor:
        """What evaluation and users take: h (B, F)."""
        return self.encoder(x)

    def give_data_info(self, info: DataInfo) -> None:
        """Tell all parts what they must know of the data, before a checkpoint is loaded.

        Raises:
            ValueError: the data brings what the loss does not take.
        """
        if info.negatives and not self.loss.takes_negatives:
            name = type(self.loss).__name__
            raise ValueError(f"{name} takes no explicit negatives, which this data, or views.negatives, brings")
        give_info(self, info)
        self.start_target()

    def start_target(self) -> None:
        """The target begins as the network, whose parameters may only now have their size, or their first values."""
        if self.target is not None:
            self.target.encoder.load_state_dict(self.encoder.state_dict())
            self.target.head.load_state_dict(self.head.state_dict())
            self.target.requires_grad_(False)

    def on_train_start(self) -> None:
        self._counted = dropout.counted_parts(self)

    def on_train_end(self) -> None:
        dropout.give_counters(self._counted, None)

    def on_train_batch_start(self, batch: Pair, batch_idx: int) -> None:
        # our own dropout: by the sample's place in the global batch, whatever rank has it
        self._draw_key = seeding.mix(self.seed, seeding.DROPOUT, self.current_epoch, batch_idx)
        # that of other libraries' modules: other masks on every rank and step, the same after a resume
        key = seeding.mix(self.seed, seeding.NETWORK, self.current_epoch, batch_idx, self.global_rank)
        seeding.seed_default_generator(key, self.device)
        self.set_annealed(batch_idx)

    def set_annealed(self, batch_idx: int) -> None:
        time = self.current_epoch + batch_idx / self.batches_per_epoch()
        parts = {"loss": self.loss, "negatives": getattr(self.loss, "negatives", None), "target": self.target}
        moved = self.anneal.apply(parts, time, self.length_at(time))  # as tensors: copies of numbers are waited for
        self.log_dict({f"anneal/{key}": full((), float(v), device=self.device) for key, v in moved.items()})

    def length_at(self, time: float) -> float:
        """Where training ends, seen from a time; both in epochs."""
        assert self.length is not None, "configure_optimizers or the checkpoint sets it"
        return self.length.at(time, elapsed_seconds(self.trainer))

    def done(self, epoch: int, step: int) -> float:
        """Which share of training lies before a step of an epoch, in [0, 1)."""
        return (time := epoch + step / self.batches_per_epoch()) / self.length_at(time)

    @property
    def step_output(self) -> StepOutput:
        """Outputs of the last training batch."""
        assert self._step_output is not None, "no training step was made yet"
        return self._step_output

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        loss, self._step_output = self.shared_step(batch)
        return loss

    def on_after_backward(self) -> None:
        # not before: blocks of rows may be computed a second time in backward
        output = self._step_output = self.step_output._replace(statistics=self.loss.statistics())
        self.log_dict(output.statistics, sync_dist=True)
        self.loss.update(output.keys, output.labels, output.ids)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.target is not None:
            self.target.follow(self.encoder, self.head)

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        (loss, _), W = self.shared_step(batch), world_size()
        N = batch.total or batch.batch_size * W
        # equal weights on all ranks: Lightning rounds the mean of the ranks' own down to a whole number
        self.log("val/loss", loss * (batch.batch_size * W / N), on_epoch=True, sync_dist=True, batch_size=N)

    def shared_step(self, batch: Pair) -> tuple[Tensor, StepOutput]:
        """Views (V, B, ...) -> the loss of this rank's B anchors against the candidates of all ranks."""
        B, N = batch.batch_size, batch.total or batch.batch_size * world_size()
        local = share(N, self.global_rank, world_size())
        x = merge_views(batch.views)  # one pass for all views, so that batch norm sees them together
        place = dropout.DrawCounters(self._draw_key, B, local.start)
        z, projection, h = self.over_ranks(self.anchors, x, place, N)  # (V, N, D), (V*B, D), (V*B, F)
        further: dict[str, Any] = {}
        if batch.crops is not None:
            of_crops = place._replace(view=dropout.FIRST_CROP)
            further["crops"], *_ = self.over_ranks(self.anchors, merge_views(batch.crops), of_crops, N)
        if self.target is None:
            target = None if self.predictor is None else gather_views(projection.detach(), B, N, self.ring)
        else:
            (target,) = self.over_ranks(self.candidates, x, place, N)
        if batch.negatives is not None:
            if not self.loss.takes_negatives:
                raise ValueError(f"{type(self.loss).__name__} takes no explicit negatives, which these views bring")
            x, of_negatives = merge_negatives(batch.negatives), place._replace(view=dropout.FIRST_NEGATIVE)
            (further["negatives"],) = self.over_ranks(self.candidates, x, of_negatives, N)
            if batch.negative_ids is not None:
                further["negative_ids"] = gather(batch.negative_ids.T, N, self.ring).T  # (M, N)
        if batch.catalog is not None and batch.catalog_ids is not None:
            part = share(E := len(batch.catalog), self.global_rank, world_size())
            of_items = dropout.DrawCounters(self._draw_key, part.stop - part.start, part.start, dropout.FIRST_CATALOG)
            (catalog,) = self.over_ranks(self.candidates, batch.catalog[part], of_items, E)  # (1, E, D)
            further |= {"catalog": catalog[0], "catalog_ids": batch.catalog_ids}  # (E, D) and (E,)
        labels = None if batch.labels is None else gather(batch.labels, N, self.ring)  # (N,)
        ids = gather(batch.ids.T, N, self.ring).T  # (V, N)
        call = partial(ring_loss, self.loss, total=N) if self.ring else partial(self.loss, local=local)
        loss = call(z, labels, ids, target=target, **further)
        keys = z if target is None else target
        further = {name: tensor.detach() for name, tensor in further.items() if name != "crops"}
        return loss, StepOutput(loss.detach(), h.detach(), z.detach(), keys.detach(), labels, ids, further)

    def over_ranks(self, network: Network, x: ViewBatch, place: dropout.DrawCounters, total: int) -> tuple[Tensor, ...]:
        """network(x), perhaps in micro-batches: its first output (V*B, D) as (V, N, D) of all ranks, others as is."""
        learning = self.encoder, self.head, self.predictor
        z, *others = in_micro_batches(network, x, place, self.micro_batch, learning, self._counted)
        return gather_views(z, place.samples, total, self.ring), *others

    def anchors(self, x: ViewBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Views (n, ...) -> embeddings (n, D), projections (n, D) and features (n, F)."""
        projection = self.head(h := self.encoder(x))
        return (projection if self.predictor is None else self.predictor(projection)), projection, h

    def candidates(self, x: ViewBatch) -> tuple[Tensor]:
        """Candidates (n, ...) -> embeddings (n, D), in the space of what anchors are compared with."""
        if self.target is not None:
            return (self.target(x),)
        projection = self.head(self.encoder(x))
        return (projection if self.predictor is None else projection.detach(),)

    def batches_per_epoch(self) -> int:
        return pair_data(self.trainer).batches_per_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.length is not None:
            checkpoint["training_length"] = self.length._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "training_length" in checkpoint:
            self.length = TrainingLength(**checkpoint["training_length"])
        self._group_sizes = [len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"]]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self.length is None:
            self.length = planned_length(self.trainer, self.batches_per_epoch())
        modules = [m for m in (self.encoder, self.head, self.predictor, self.loss) if m is not None]
        decay = self.optimizer.keywords.get("weight_decay")
        groups = parameter_groups(modules, decay)
        if self._group_sizes not in (None, [len(group["params"]) for group in groups]):  # a run of the first edition
            groups = parameter_groups(modules, decay, named=False)
        factor = LambdaLR(optimizer := self.optimizer(groups), lambda step: self.rate_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied by in an optimizer step."""
        assert self.length is not None, "configure_optimizers sets it"
        epoch = (step + 0.5) / steps_per_epoch(self.trainer, self.batches_per_epoch())  # the middle of the step
        return fill_length(self.schedule, self.length.at(epoch, elapsed_seconds(self.trainer)))(epoch)
