"""What Health looks for in a training step on users and items, and the thresholds."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from repel.losses.base import Loss
from repel.losses.gradient_weights import negative_weights
from repel.module import StepOutput
from repel.monitoring.item_negatives import ItemNegatives, UserItems
from repel.monitoring.symptoms import ANCHORS, PATIENCE_SHORT, Symptom
from repel.negatives.popularity import Popularity

__all__ = ["find_item_symptoms"]

MIN_KNOWN = 1.0  # known positives that an anchor pushes away: it pulls one, and should not push as many
# of mean log popularity, candidates above all items: they are 1.6 times as popular; 0.8 for Gowalla, 2 for Debian
MIN_POPULARITY = 0.5
MAX_UNCORRECTED = 0.5  # part of it that may be left in the gradient


def find_item_symptoms(
    loss: Loss, step: StepOutput, items: ItemNegatives | None, pairs: UserItems
) -> Iterator[Symptom]:
    """Known positives that are pushed away, and popular items.

    Args:
        items: what the step's users see as negatives; None where there are none.
        pairs: of the run.
    """
    if items is None or items.weight is None:
        return
    pushed = items.weight > 0
    known = items.known & pushed
    number = float(known.sum() / pushed.any(1).sum().clamp(min=1))
    # where popularity is corrected, or there is nothing to correct, they did no harm: docs/recommendation.md
    corrected = "catalog" in step.further or any(isinstance(part, Popularity) for part in loss.modules())
    if number >= MIN_KNOWN and not corrected:
        share = float(known.sum() / pushed.sum())
        yield Symptom("known", PATIENCE_SHORT, (
            f"{share:.1%} of the negatives are known positives, {number:.0f} for each user, where it is pulled to one: "
            "negatives=known leaves them out"
        ))  # fmt: skip
    yield from _popular(loss, step, pairs)


def _popular(loss: Loss, step: StepOutput, pairs: UserItems) -> Iterator[Symptom]:
    """Candidates that are drawn by their popularity, and a strategy that does not correct this.

    Measured on random embeddings in the batch's place: what a trained network pushes says less, as it ranks popular
    items first, which they may deserve.
    """
    noise = torch.Generator().manual_seed(0)

    def random(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=noise).to(like) if like.is_floating_point() else like

    z, further = random(step.z), {name: random(tensor) for name, tensor in step.further.items()}
    items = pairs.negatives(negative_weights(loss, z, z, step.labels, step.ids, ANCHORS, **further))
    if items is None or items.weight is None or not bool(items.weight.any()):
        return
    drawn, pushed = float(items.candidate_popularity()), float(items.pushed_popularity())
    if drawn > MIN_POPULARITY and pushed > MAX_UNCORRECTED * drawn:
        yield Symptom("popular", PATIENCE_SHORT, (
            f"popular items are pushed away: the batch's are {math.exp(pushed):.1f} times as popular as items are "
            "(geometric means), and each is pushed as often as it is drawn: negatives=popularity corrects this"
        ))  # fmt: skip
