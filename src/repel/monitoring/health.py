"""A word when training looks wrong: docs/monitoring.md lists what it says, from which numbers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from repel.data.pair import Pair
from repel.evaluation import geometry
from repel.losses.base import Loss, unit
from repel.losses.gradient_weights import NegativeWeights, negative_weights
from repel.losses.ratio import LogRatioLoss
from repel.losses.rowwise import RowwiseLoss
from repel.module import Contrastive, Step
from repel.monitoring.monitor import ALIVE, ends_step, spaced

ANCHORS = 256  # of a batch, and so many inputs: chance is then told from APART
SAME = (
    0.99  # mean cosine of different samples from which on they are all the same; an untrained encoder's features have
)
# this too, but not the head's embeddings, so it must last
CONSTANT = 1e-4  # range of an input's values, normalised to a deviation of about 1: above rounding, below 1 / 255
FEW = 8  # negatives: the loss then is a choice among a handful, which chance gets right often
COLD = 2.0  # negatives that act on an anchor: the softmax is a maximum; 1.45 at t = 0.005 and D = 128, 230 at t = 0.2
FLOOR = 0.5  # of anchors at debiasing's floor: most of the batch repels nothing
STEP = 0.05  # length of a step, relative to the weights; 0.001 to 0.01 is usual, and the default run's peak is 0.011
DEAD = 0.5  # of the features' dimensions
APART = 0.1  # deviations between positives and negatives, above what n positives have by chance (1 / sqrt(n)), twice
RISEN = 0.1  # of the loss above its start, relative to it
AGAIN, SOON, LATE = 10, 20, 100  # optimiser steps for which a symptom must last: a bad start passes within 20


class Symptom(NamedTuple):
    """lasting: for how many optimiser steps it must be there at every check before it is told."""

    name: str
    lasting: int
    sentence: str


class Health(Callback):
    """Prints one line, `health   ...`, the first time that training shows one of the symptoms below.

    Every trainer.log_every_n_steps optimiser steps, from the first on, on the first rank, by numbers that it has
    itself: nobody waits for it, and nothing changes by it. Each symptom is told once a run, a resumed one included, and
    is kept in `<run>/health.txt`. Where inputs, features or the batch cannot work, nothing else is said.
    """

    def __init__(self):
        self.told: list[str] = []
        self.since: dict[str, int] = {}  # the step from which on a symptom has been there at every check
        self.before: list[Tensor] = []
        self.losses = LossHistory()
        self.due = False

    def state_dict(self) -> dict[str, Any]:
        return {"told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told = list(state["told"])

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Pair, batch_idx: int) -> None:
        every = trainer.log_every_n_steps
        due = ends_step(trainer, batch_idx) and every > 0 and trainer.global_step % every == 0
        self.due = due and trainer.is_global_zero

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        if self.due:
            self.before = [p.detach().clone() for p in weights(module)]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Mapping, batch: Pair, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        self.losses.add(loss)
        if not self.due:
            return
        step: Step = module.last
        seen = negative_weights(module.loss, step.z, step.keys, step.labels, step.ids, ANCHORS)
        # the first cause alone where nothing can work: the rest would follow from it
        symptoms = list(cannot_work(batch, module, seen))[:1] or list(self.symptoms(module, float(loss), seen))
        self.since = {s.name: self.since.get(s.name, trainer.global_step) for s in symptoms}
        for symptom in symptoms:
            if symptom.name not in self.told and trainer.global_step - self.since[symptom.name] >= symptom.lasting:
                self.tell(trainer, symptom)

    def tell(self, trainer: Trainer, symptom: Symptom) -> None:
        self.told.append(symptom.name)
        line = f"step {trainer.global_step}: {symptom.sentence}"
        print(f"health   {line}", flush=True)
        with (Path(trainer.default_root_dir) / "health.txt").open("a") as file:
            file.write(line + "\n")

    def symptoms(self, module: Contrastive, loss: float, seen: NegativeWeights) -> Iterator[Symptom]:
        """Of a run that could work."""
        step: Step = module.last
        length = step_length(self.before, weights(module))
        if length > STEP:
            yield Symptom("steps", AGAIN, (
                f"one step moves the weights by {length:.0%} of their length, where 1 % is usual, and overwrites what "
                "was learned: the learning rate is too high. Divide optimizer.lr by 10 or more, or lengthen the warm-up"
            ))  # fmt: skip
        clamped = float(module.statistics.get("negatives/clamped_fraction", 0))
        if clamped > FLOOR:
            yield Symptom("clamp", SOON, (
                f"debiasing is at its floor for {clamped:.0%} of the anchors, whose negatives then have no gradient: "
                "the loss only attracts. Raise loss.temperature (0.5 in the papers) or lower negatives.tau_plus"
            ))  # fmt: skip
        yield from cold(module.loss, seen, step.z.shape[-1])
        yield from collapse(module.loss, step, loss)
        yield from chance(module.loss, step, seen, loss)
        if risen := self.losses.risen(module):
            yield Symptom("diverging", 0, (
                f"the loss has risen from {risen[0]:.4g} at the start to {risen[1]:.4g}: training diverges. Lower "
                "optimizer.lr, lengthen the warm-up, or set trainer.gradient_clip_val=1"
            ))  # fmt: skip
        dead = float(geometry.dead_dimensions(step.h, ALIVE))
        if dead > DEAD:
            yield Symptom("dead", SOON, (
                f"{dead:.0%} of the features' dimensions do not vary over the batch: dead units, often left by steps "
                "that were too large. Lower optimizer.lr, or try another seed"
            ))  # fmt: skip


class LossHistory:
    """Means of the loss over windows of SOON steps at least, the first and the last two; kept on the device."""

    def __init__(self):
        self.total, self.count, self.means = 0.0, 0, []

    def add(self, loss: Tensor) -> None:
        self.total, self.count = self.total + loss, self.count + 1

    def risen(self, module: Contrastive) -> tuple[float, float] | None:
        """The loss at the start and now, if the last two windows are well above the start."""
        if module.anneal.values or filling(module.loss):
            self.__init__()  # another loss from step to step: more negatives, other weights
        elif self.count >= SOON:
            self.means = [*self.means[:1], *self.means[1:][-1:], float(self.total / self.count)]
            self.total, self.count = 0.0, 0
        if len(self.means) < 3:
            return None
        first, *last = self.means
        return (first, last[-1]) if min(last) > first + RISEN * abs(first) else None


def cannot_work(batch: Pair, module: Contrastive, seen: NegativeWeights) -> Iterator[Symptom]:
    """What is wrong before anything is learned."""
    x, h = spaced(batch.views[0].float(), ANCHORS), module.last.h
    flat = x.flatten(2) if x.ndim > 2 else x
    if bool((flat.amax(-1) - flat.amin(-1) <= CONSTANT).all()):
        yield Symptom("inputs", 0, (
            f"every one of {len(x)} inputs has the same value everywhere: there is nothing to tell apart. Look at the "
            "data (files read as blank, a wrong data.mean or data.std) and at views/pairs in TensorBoard"
        ))  # fmt: skip
    elif bool((x == x[:1]).all()):
        yield Symptom("inputs", 0, (
            f"all {len(x)} inputs are identical: there is nothing to tell apart. Look at the data, and at views/pairs "
            "in TensorBoard"
        ))  # fmt: skip
    if not bool(h.any()):
        yield Symptom("zero", 0, (
            f"all {h.shape[1]} features of all {len(h)} inputs are 0: the encoder lets nothing through. Look at its "
            "last layers and its weights; a learning rate that is too high leaves such a network behind"
        ))  # fmt: skip
    number = float(seen.is_negative.sum(1).float().mean())
    if number < FEW:
        yield Symptom("few", SOON if filling(module.loss) else 0, (
            f"an anchor has {number:.3g} negatives, in a batch of {module.last.z.shape[1]} samples: chance tells so "
            "few apart, and batch norm has next to no batch. Raise data.batch_size (64 or more), or add "
            "queue.size=4096 target=ema"
        ))  # fmt: skip


def cold(loss: Loss, seen: NegativeWeights, dim: int) -> Iterator[Symptom]:
    """A softmax that is a maximum, even where it should be the softest: among embeddings spread evenly over the sphere.

    Their cosines have a deviation of 1 / sqrt(D). (What acts among the embeddings as they are says less: while they
    still lie close together, every temperature looks high.)
    """
    if not isinstance(loss, LogRatioLoss):
        return
    n, t = int(seen.is_negative.sum(1).float().mean()), float(seen.temperature)
    cosines = torch.randn(ANCHORS, min(n, 1024), generator=torch.Generator().manual_seed(0)) / dim**0.5
    number = float(geometry.effective_number((cosines / t).softmax(1)).mean())
    if number < COLD:
        yield Symptom("cold", 0, (
            f"the temperature of {t:.3g} is too low for {dim} dimensions: even of {n} negatives spread evenly, "
            f"{number:.2f} would act on an anchor, its closest, which is often of its own class; training tends to "
            "collapse. Raise loss.temperature (0.1 to 0.5 is usual)"
        ))  # fmt: skip


def collapse(loss: Loss, step: Step, value: float) -> Iterator[Symptom]:
    """Embeddings all the same, and the loss where it is when they are."""
    mean = unit(step.z[0]).mean(0)
    n = step.z.shape[1]
    cosine = float((n * mean.square().sum() - 1) / (n - 1))  # the mean over pairs
    if cosine < SAME:
        return
    equal = at(loss, step, mean.expand_as(step.z))
    noise = torch.Generator().manual_seed(0)
    far = at(loss, step, torch.randn(step.z.shape, generator=noise).to(step.z))
    # a loss that is 0 when all are equal has the scale of what it is for random embeddings
    if abs(value - equal) <= 0.05 * max(abs(equal), abs(far - equal)):
        yield Symptom("collapse", SOON, (
            f"the embeddings have collapsed: different samples have a mean cosine of {cosine:.3f}, and the loss is "
            f"{value:.4f}, where it is {equal:.4f} when all embeddings are equal. Try softer negatives "
            "(negatives=uniform, or anneal from soft to hard), a lower optimizer.lr or a higher loss.temperature; "
            "without negatives, a predictor and target=ema"
        ))  # fmt: skip


def chance(loss: Loss, step: Step, seen: NegativeWeights, value: float) -> Iterator[Symptom]:
    """Positives no closer than negatives, long after the start."""
    negative, positive = seen.negative[seen.is_negative], float(seen.positive.mean())
    apart = APART + 2 / len(seen.positive) ** 0.5
    if len(negative) and positive - float(negative.mean()) < apart * float(negative.std()):
        equal = at(loss, step, unit(step.z[0]).mean(0).expand_as(step.z))
        yield Symptom("chance", LATE, (
            f"the loss is at chance: {value:.4f} ({equal:.4f} when all embeddings are equal), positives have a mean "
            f"cosine of {positive:.3f} and negatives of {float(negative.mean()):.3f}. The views of a sample may have "
            "nothing in common (weaken views.augmentation), samples may all be the same, or optimizer.lr may be far off"
        ))  # fmt: skip


def filling(loss: Loss) -> bool:
    """Whether a queue still grows, and with it the number of negatives."""
    return isinstance(loss, RowwiseLoss) and len(loss.queue) < loss.queue.size


def at(loss: Loss, step: Step, z: Tensor) -> float:
    """The loss of these embeddings (V, N, D) in the batch's place; they are not counted as training."""
    training = loss.training
    loss.eval()
    try:
        return float(loss(z, step.labels, step.ids, slice(None), z))
    finally:
        loss.train(training)


def weights(module: LightningModule) -> list[Tensor]:
    """What is learned and has a length of its own: no biases and gains, which begin at 0 or 1."""
    return [p for p in module.parameters() if p.requires_grad and p.ndim > 1]


def step_length(before: list[Tensor], after: list[Tensor]) -> float:
    """||w' - w|| / ||w|| of all weights together."""
    moved = sum((a - b).square().sum() for a, b in zip(after, before, strict=True))
    return float((moved / sum(b.square().sum() for b in before)).sqrt())
