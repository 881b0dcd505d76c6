"""What Health looks for in a training step: one function a symptom or group of symptoms, and their thresholds."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from repel.base.collectives import world_size
from repel.base.modes import evaluation_mode
from repel.data.pair import Pair
from repel.evaluation import geometry
from repel.losses.base import Loss, unit
from repel.losses.gradient_weights import NegativeWeights
from repel.losses.ratio import LogRatioLoss
from repel.losses.rowwise import RowwiseLoss
from repel.module import Contrastive, StepOutput
from repel.monitoring.monitor import evenly_spaced_rows

__all__ = ["Symptom", "find_causes", "find_symptoms", "is_filling"]

ANCHORS = 256  # of a batch, and as many inputs: enough to tell chance from MIN_SEPARATION
# mean cosine of different samples from which on they count as equal; features of an untrained encoder reach this too,
# but not the head's embeddings, so it must last
COLLAPSE_COSINE = 0.99
COLLAPSE_LOSS_MARGIN = 0.05  # of the loss around its value for equal embeddings, relative
CONSTANT_RANGE = 1e-4  # of an input's values, normalized to a deviation of about 1: above rounding, below 1 / 255
MIN_NEGATIVES = 8  # with fewer the loss is a choice among a handful, which chance gets right often
# with fewer acting on an anchor the softmax is a maximum; 1.45 act at t = 0.005 and D = 128, 230 at t = 0.2
MIN_EFFECTIVE_NEGATIVES = 2.0
MAX_CLAMPED_FRACTION = 0.5  # of anchors at debiasing's floor: most of the batch repels nothing
MAX_STEP_LENGTH = 0.05  # relative to the weights; 0.001 to 0.01 is usual, and the default run's peak is 0.011
MAX_DEAD_FRACTION = 0.5  # of the features' dimensions
# deviations between positives and negatives, above what n positives have by chance (1 / sqrt(n)), twice
MIN_SEPARATION = 0.1
# optimizer steps for which a symptom must last: a bad start passes within 20
PATIENCE_SHORT, PATIENCE, PATIENCE_LONG = 10, 20, 100


class Symptom(NamedTuple):
    """One thing that is wrong at this step.

    patience: optimizer steps for which it must be there at every check before it is reported.
    message: the condition, and what to try.
    """

    name: str
    patience: int
    message: str


def find_causes(batch: Pair, module: Contrastive, step: StepOutput, seen: NegativeWeights) -> Iterator[Symptom]:
    """What keeps a run from learning at all; other symptoms would only follow from it."""
    x, h = evenly_spaced_rows(batch.views[0].float(), ANCHORS), step.h
    flat = x.flatten(2) if x.ndim > 2 else x
    if bool((flat.amax(-1) - flat.amin(-1) <= CONSTANT_RANGE).all()):
        yield Symptom("inputs", 0, (
            f"every one of {len(x)} inputs has the same value everywhere: there is nothing to learn from. Check the "
            "data (blank files, a wrong data.mean or data.std) and views/pairs in TensorBoard"
        ))  # fmt: skip
    elif bool((x == x[:1]).all()):
        yield Symptom("inputs", 0, (
            f"all {len(x)} inputs are identical: there is nothing to learn from. Check the data, and views/pairs in "
            "TensorBoard"
        ))  # fmt: skip
    if not bool(h.any()):
        yield Symptom("zero", 0, (
            f"all {h.shape[1]} features of all {len(h)} inputs are 0: nothing passes through the encoder. Check its "
            "last layers and its weights; a learning rate that is too high can leave a network like this"
        ))  # fmt: skip
    others = world_size() - 1 if module.ring else 0  # ranks whose candidates are negatives, and are not seen
    number = float(seen.is_negative.sum(1).float().mean()) + others * seen.negative.shape[1]
    if number < MIN_NEGATIVES:
        samples = (1 + others) * step.z.shape[1]
        yield Symptom("few", PATIENCE if is_filling(module.loss) else 0, (
            f"an anchor has {number:.3g} negatives, in a batch of {samples} samples: so few are told apart by "
            "chance, and batch norm needs a larger batch too. Raise data.batch_size (64 or more), or add "
            "queue.size=4096 target=ema"
        ))  # fmt: skip


def find_symptoms(
    module: Contrastive,
    step: StepOutput,
    loss: float,
    seen: NegativeWeights,
    step_length: float,
    loss_rise: tuple[float, float] | None,
) -> Iterator[Symptom]:
    """What is wrong with a run that could work.

    Args:
        loss: of the batch; with gather=ring another one is computed.
        step_length: of the optimizer's step, relative to the weights.
        loss_rise: the loss at the start and now, where it has risen; else None.
    """
    if module.ring:  # of this rank's samples alone, as what it is compared with
        with evaluation_mode(module.loss):
            loss = float(module.loss(step.z, step.labels, step.ids, slice(None), step.keys, **step.further))
    if step_length > MAX_STEP_LENGTH:
        yield Symptom("steps", PATIENCE_SHORT, (
            f"one step moves the weights by {step_length:.0%} of their norm, where 1 % is usual, and overwrites what "
            "was learned: the learning rate is too high. Divide optimizer.lr by 10 or more, or lengthen the warm-up"
        ))  # fmt: skip
    clamped = float(step.statistics.get("negatives/clamped_fraction", 0))
    if clamped > MAX_CLAMPED_FRACTION:
        yield Symptom("clamp", PATIENCE, (
            f"debiasing is clamped for {clamped:.0%} of the anchors, whose negatives then have no gradient: the loss "
            "only attracts. Raise loss.temperature (0.5 in the papers) or lower negatives.tau_plus"
        ))  # fmt: skip
    yield from _low_temperature(module.loss, seen, step.z.shape[-1])
    yield from collapse(module.loss, step, loss)
    yield from chance(module.loss, step, seen, loss)
    if loss_rise is not None:
        yield Symptom("diverging", 0, (
            f"the loss has risen from {loss_rise[0]:.4g} at the start to {loss_rise[1]:.4g}: training diverges. Lower "
            "optimizer.lr, lengthen the warm-up, or set trainer.gradient_clip_val=1"
        ))  # fmt: skip
    dead = float(geometry.dead_dimensions(step.h))
    if dead > MAX_DEAD_FRACTION:
        yield Symptom("dead", PATIENCE, (
            f"{dead:.0%} of the feature dimensions do not vary over the batch: dead units, often a result of steps "
            "that were too large. Lower optimizer.lr, or try another seed"
        ))  # fmt: skip


def _low_temperature(loss: Loss, seen: NegativeWeights, dim: int) -> Iterator[Symptom]:
    """A softmax that is a maximum even among embeddings spread evenly over the sphere, where it is the softest.

    Their cosines have a deviation of 1 / sqrt(D). (How many act among the embeddings as they are says less: while they
    are still close together, every temperature looks high.)
    """
    if not isinstance(loss, LogRatioLoss) or seen.temperature is None:
        return
    n, t = int(seen.is_negative.sum(1).float().mean()), float(seen.temperature)
    cosines = torch.randn(ANCHORS, min(n, 1024), generator=torch.Generator().manual_seed(0)) / dim**0.5
    number = float(geometry.effective_number((cosines / t).softmax(1)).mean())
    if number < MIN_EFFECTIVE_NEGATIVES:
        yield Symptom("cold", 0, (
            f"the temperature of {t:.3g} is too low for {dim} dimensions: even if {n} negatives were spread evenly, "
            f"only {number:.2f} would act on an anchor, the closest, which are often of its own class; training tends "
            "to collapse. Raise loss.temperature (0.1 to 0.5 is usual)"
        ))  # fmt: skip


def collapse(loss: Loss, step: StepOutput, value: float) -> Iterator[Symptom]:
    """Embeddings that are all the same, and a loss as for equal embeddings."""
    mean = unit(step.z[0]).mean(0)
    n = step.z.shape[1]
    cosine = float((n * mean.square().sum() - 1) / (n - 1))  # the mean over pairs
    if cosine < COLLAPSE_COSINE:
        return
    equal = _loss_of(loss, step, mean.expand)
    noise = torch.Generator().manual_seed(0)
    random = _loss_of(loss, step, lambda shape: torch.randn(shape, generator=noise).to(step.z))
    # a loss that is 0 when all are equal has the scale of its value for random embeddings
    if abs(value - equal) <= COLLAPSE_LOSS_MARGIN * max(abs(equal), abs(random - equal)):
        yield Symptom("collapse", PATIENCE, (
            f"the embeddings have collapsed: different samples have a mean cosine of {cosine:.3f}, and the loss is "
            f"{value:.4f}, which for equal embeddings is {equal:.4f}. Try softer negatives (negatives=uniform, or "
            "anneal from soft to hard), a lower optimizer.lr or a higher loss.temperature; without negatives, a "
            "predictor and target=ema"
        ))  # fmt: skip


def chance(loss: Loss, step: StepOutput, seen: NegativeWeights, value: float) -> Iterator[Symptom]:
    """Positives no closer than negatives, long after the start."""
    negative, positive = seen.negative[seen.is_negative], float(seen.positive.mean())
    separation = MIN_SEPARATION + 2 / len(seen.positive) ** 0.5
    if len(negative) and positive - float(negative.mean()) < separation * float(negative.std()):
        equal = _loss_of(loss, step, unit(step.z[0]).mean(0).expand)
        yield Symptom("chance", PATIENCE_LONG, (
            f"the loss is at chance: {value:.4f}, which for equal embeddings is {equal:.4f}; positives have a mean "
            f"cosine of {positive:.3f} and negatives of {float(negative.mean()):.3f}. The views of a sample may have "
            "nothing in common (weaken views.augmentation), the data may be copies of one sample, or optimizer.lr may "
            "be far off"
        ))  # fmt: skip


def is_filling(loss: Loss) -> bool:
    """Whether a queue still grows, and with it the number of negatives."""
    return isinstance(loss, RowwiseLoss) and len(loss.queue) < loss.queue.size


def _loss_of(loss: Loss, step: StepOutput, made: Callable[[torch.Size], Tensor]) -> float:
    """The loss of other embeddings in the batch's place, made by their shape; they are not counted as training."""
    z = made(step.z.shape)
    further = {name: made(t.shape) if t.is_floating_point() else t for name, t in step.further.items()}
    with evaluation_mode(loss):
        return float(loss(z, step.labels, step.ids, slice(None), z, **further))
