"""Geometry, similarities and negatives during training; docs/monitoring.md explains each number."""

from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from repel.data.datamodule import pair_data
from repel.data.pair import Pair
from repel.evaluation import geometry
from repel.losses.gradient_weights import NegativeWeights, negative_weights
from repel.losses.rowwise import RowwiseLoss
from repel.module import Contrastive, StepOutput
from repel.monitoring.item_negatives import ItemNegatives, user_items
from repel.monitoring.validation_knn import ValidationKNN
from repel.monitoring.validation_ranking import ValidationRanking

__all__ = ["Monitor", "evenly_spaced_rows", "optimizer_step_follows"]

HARDEST = 0.01  # the closest 1 % of the negatives, whose share of the gradient is logged
BINS = 64  # of the histograms of similarities in [-1, 1]


class Monitor(Callback):
    """Logs geometry, similarities and negatives of the training batch, every trainer.log_every_n_steps steps.

    All ranks hold the gathered batch, so the first rank measures it alone, and no rank waits; with gather=ring it
    measures its own part. It is measured before the queue takes the batch in: as the loss saw it. Once per validation
    the geometry of the features h that ValidationKNN has encoded is logged. Training does not change: weights with and
    without this callback are the same bits.

    Args:
        anchors: at most so many of the batch, evenly spaced, against all candidates.
        features: at most so many validation features; of pairs so many users and so many items.
    """

    def __init__(self, anchors: int, features: int):
        for name, number in (("anchors", anchors), ("features", features)):
            if not isinstance(number, int) or number < 2:
                raise ValueError(f"callbacks.monitor.{name} must be a whole number, at least 2, got {number}")
        self.anchors, self.features = anchors, features
        self.due = False

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Pair, batch_idx: int) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.due = optimizer_step_follows(trainer, batch_idx) and every > 0 and (trainer.global_step + 1) % every == 0

    @torch.no_grad()
    def on_after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        if not (self.due and trainer.is_global_zero):
            return
        assert isinstance(module, Contrastive)
        step = module.step_output
        seen = negative_weights(module.loss, step.z, step.keys, step.labels, step.ids, self.anchors, **step.further)
        sides = pair_data(trainer).splits.train.modality.sides
        values = _embedding_metrics(step, self.anchors, sides) | _similarity_metrics(seen) | _negative_metrics(seen)
        if (pairs := user_items(trainer)) and (items := pairs.negatives(seen)):
            values |= _item_metrics(items)
        learned = isinstance(module.loss, RowwiseLoss) and module.loss.log_factor is not None
        if seen.temperature is not None and not learned:  # a learned one is among the loss's own statistics
            values["train/temperature"] = seen.temperature
        module.log_dict({name: value.float() for name, value in values.items()}, rank_zero_only=True)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                _add_histogram(logger, "similarity/positives", seen.positive.flatten(), trainer.global_step)
                _add_histogram(logger, "similarity/negatives", seen.negative[seen.is_negative], trainer.global_step)

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        if self.due and trainer.is_global_zero:  # before clipping; DDP has averaged the gradients of all ranks
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            module.log("train/gradient_norm", get_total_norm(gradients), rank_zero_only=True)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        for side, features in _validation_features(trainer).items():
            h = evenly_spaced_rows(features, self.features)
            values = {
                "effective_rank": geometry.effective_rank(h).float(),
                "uniformity": geometry.uniformity(h),
                "deviation": geometry.deviation(h).mean(),
                "dead_dimensions": geometry.dead_dimensions(h),
            }
            module.log_dict({f"val/h_{side}{name}": value for name, value in values.items()}, rank_zero_only=True)


def _validation_features(trainer: Trainer) -> dict[str, Tensor]:
    """What the validation has encoded: of pairs each side by itself, with its name; empty where nothing has."""
    found: dict[str, Tensor] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ValidationKNN) and callback.features is not None:
            found[""] = callback.features
        if isinstance(callback, ValidationRanking) and callback.user_features is not None:
            assert callback.item_features is not None
            found |= {"users_": callback.user_features, "items_": callback.item_features}
    return found


def optimizer_step_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether an optimizer step follows this batch; gradient accumulation may delay it."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or batch_idx + 1 == trainer.num_training_batches


def evenly_spaced_rows(x: Tensor, limit: int) -> Tensor:
    """At most so many rows, evenly spaced."""
    return x[:: -(-len(x) // limit)]


def _embedding_metrics(step: StepOutput, limit: int, sides: Sequence[str]) -> dict[str, Tensor]:
    """Geometry of z and of the features behind it; where views differ in kind, of each kind by itself."""
    if sides:
        values = {"geometry/alignment": geometry.alignment(step.z[: len(sides)])}
        values["geometry/dead_dimensions"] = geometry.dead_dimensions(step.h)
        for side, z, ids in zip(sides, step.z, step.ids, strict=False):  # further views show these again
            values |= _side_metrics(f"geometry/{side}/", _of_different_entities(z, ids, limit))
        return values
    z = evenly_spaced_rows(step.z[0], limit)  # of one view, so that no two are of the same sample
    values = {
        "geometry/alignment": geometry.alignment(step.z),
        "geometry/uniformity": geometry.uniformity(z),
        "geometry/effective_rank": geometry.effective_rank(z),
        "geometry/deviation": geometry.deviation(z).mean(),
        "geometry/dead_dimensions": geometry.dead_dimensions(step.h),
    }
    if step.labels is not None:
        known = geometry.tolerance(z, evenly_spaced_rows(step.labels, limit))
        values |= {} if known.isnan() else {"geometry/tolerance": known}
    return values


def _of_different_entities(z: Tensor, ids: Tensor, limit: int) -> Tensor:
    """At most so many rows of z (N, D), evenly spaced, each of another entity (N,)."""
    _, first = np.unique(ids.cpu().numpy(), return_index=True)
    return evenly_spaced_rows(z[torch.from_numpy(np.sort(first)).to(z.device)], limit)


def _side_metrics(prefix: str, z: Tensor) -> dict[str, Tensor]:
    """Geometry of one kind of entities (M, D); none of fewer than two."""
    if len(z) < 2:
        return {}
    values = {"uniformity": geometry.uniformity(z), "effective_rank": geometry.effective_rank(z),
              "deviation": geometry.deviation(z).mean(), "norm": z.norm(dim=1).mean()}  # fmt: skip
    return {prefix + name: value for name, value in values.items()}


def _similarity_metrics(seen: NegativeWeights) -> dict[str, Tensor]:
    """Cosines of anchors with their positives and negatives; an anchor's positives by their mean."""
    positive = seen.positive.mean(1)
    values = {"similarity/positive": positive.mean()}
    some = seen.is_negative.any(1)  # before a queue has its first entries there may be no negatives
    if some.any():
        margin = geometry.margins(positive[some], seen.negative[some], seen.is_negative[some])
        values["similarity/negative"] = seen.negative[seen.is_negative].mean()
        values["similarity/margin"] = margin.mean()
        values["similarity/violation_rate"] = (margin < 0).float().mean()
    return values


def _negative_metrics(seen: NegativeWeights) -> dict[str, Tensor]:
    """How the gradient is distributed over the negatives, and which part goes to the anchor's own class."""
    values = {"negatives/number": seen.is_negative.sum(1).float().mean()}
    if seen.same_class is not None and seen.is_negative.any():
        values["negatives/false_rate"] = geometry.false_rate(seen.same_class, seen.is_negative)
        values["negatives/hardest_false_rate"] = geometry.hardest_false_rate(
            seen.same_class, seen.negative, seen.is_negative
        )
    if seen.weight is None or not seen.is_negative.any():
        return values
    pushed = seen.weight.sum(1) > 0
    values["negatives/anchors_without_gradient"] = 1 - pushed.float().mean()
    if not pushed.any():
        return values
    share, n = geometry.shares(seen.weight[pushed]), seen.negative.shape[1]
    negative, exists = seen.negative[pushed], seen.is_negative[pushed]
    values["negatives/effective_number"] = geometry.effective_number(share).mean()
    values["negatives/effective_sample_size"] = geometry.effective_sample_size(share).mean()
    hardest = geometry.share_of_hardest(share[:, :n], negative, exists, HARDEST)  # synthetic ones have no cosine
    values["negatives/hardest_1pct_gradient_share"] = hardest.mean()
    if seen.same_class is not None:
        values["negatives/false_mass"] = geometry.false_mass(share[:, :n], seen.same_class[pushed]).mean()
    return values


def _item_metrics(items: ItemNegatives) -> dict[str, Tensor]:
    """Of users' negatives, how many are known positives, and whether the gradient goes to the popular ones."""
    values = {"negatives/known_rate": items.known_rate()}
    if items.weight is not None and bool(items.weight.any()):
        values["negatives/popularity_of_push"] = items.pushed_popularity() - items.candidate_popularity()
    return values


def _add_histogram(logger: TensorBoardLogger, name: str, cosines: Tensor, step: int) -> None:
    """Cosines in BINS equal bins over [-1, 1], so that steps and runs can be overlaid."""
    if len(cosines) == 0:
        return
    x = cosines.float().clamp(-1, 1)
    edges = torch.linspace(-1, 1, BINS + 1)[1:].tolist()
    counts = torch.histc(x, BINS, -1, 1).tolist()
    sums = torch.stack([x.min(), x.max(), x.sum(), x.square().sum()]).tolist()
    logger.experiment.add_histogram_raw(name, *sums[:2], len(x), *sums[2:], edges, counts, step)
