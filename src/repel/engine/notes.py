"""Notes on choices that are allowed and may surprise, printed when training begins."""

import math
from collections.abc import Iterator
from functools import partial

from omegaconf import DictConfig, OmegaConf

from repel.data.length import TrainingLength
from repel.engine.batch_norm import has_unsynced_batch_norm
from repel.engine.build import on_gpu
from repel.module import Contrastive

__all__ = ["end_notes", "length_notes", "notes"]


def notes(cfg: DictConfig, module: Contrastive, world: int) -> list[str]:
    """On the network, its loss and the devices."""
    found = []
    if world > 1 and not on_gpu(cfg) and has_unsynced_batch_norm(module):
        found.append("some batch norms of this network take their statistics on each rank alone: on CPUs, only plain "
                     "BatchNorm1d and BatchNorm2d are synchronized")  # fmt: skip
    if cfg.queue.size and module.target is None and not module.loss.tolerates_old_keys:
        found.append("a queue without target=ema holds embeddings of an earlier network")
    side, plain = (OmegaConf.select(cfg, key) for key in ("views.augmentation.size", "data.image_size"))
    if side != plain:
        found.append(f"views have {side} pixels a side, images in evaluation {plain}: data.image_size sets both")
    if cfg.trainer.precision in ("bf16-true", "16-true"):
        found.append(
            f"trainer.precision={cfg.trainer.precision} keeps weights in half precision, which loses small steps of "
            "the optimizer; bf16-mixed keeps them in float32"
        )
    tau, t = (OmegaConf.select(cfg, key) for key in ("negatives.tau_plus", "loss.temperature"))
    if tau and t and tau * math.exp(0.8 / t) > 1:  # the share of Z taken out, for positives at a cosine of 0.8
        found.append(
            f"negatives.tau_plus={tau} at loss.temperature={t} will leave no gradient from most negatives; "
            "raise the temperature (0.5 in the papers) or lower tau_plus, and watch negatives/clamped_fraction"
        )
    return found


def length_notes(module: Contrastive, now: TrainingLength) -> Iterator[str]:
    """On where the learning rate's schedule and annealing end, and training.

    Args:
        now: by the run's limits; where it resumes with others than it began with, the module keeps the first.
    """
    if now.seconds < math.inf:
        yield "trainer.max_time ends training by the clock, and schedule and annealing with it: another run will differ"
    if module.length is not None and module.length != now:
        yield (
            f"training was to last {module.length} when it began, and {now} now: learning rate and annealing still end "
            "with the first, so that nothing jumps; schedule.max_epochs and anneal.epochs set another end"
        )
    yield from end_notes(module, now.epochs)


def end_notes(module: Contrastive, epochs: float) -> Iterator[str]:
    """On a schedule that does not end when training does, after so many epochs."""
    options = module.schedule.keywords if isinstance(module.schedule, partial) else {}
    end, warmup = options.get("max_epochs"), options.get("warmup_epochs") or 0.0
    if warmup >= epochs:
        yield (
            f"schedule.warmup_epochs={warmup:g} takes all of training, {epochs:.3g} epochs: the learning rate only "
            "rises; use fewer"
        )
    elif end is not None and epochs < math.inf and not math.isclose(end, epochs):
        early = "does not come down to its last value" if end > epochs else "stays at its last value from there on"
        yield f"schedule.max_epochs={end:g} and training ends at epoch {epochs:.3g}: the learning rate {early}"
