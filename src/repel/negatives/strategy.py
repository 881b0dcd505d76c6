"""What a strategy sees, and what it may do."""

from typing import NamedTuple

from torch import Tensor, nn


class Rows(NamedTuple):
    """A block of m anchors against n candidates.

    logits: (m, n) s / t, for every candidate, those that are no negatives included.
    positive: (m,) the anchor's positive logit; with several positives, their mean.
    negative: (m, n) bool, which candidates are negatives of the anchor.
    scale: 1 / t, a float or a scalar tensor.
    anchors, candidates: (m, D) and (n, D) unit vectors.
    row_ids, col_ids: (m,) and (n,) dataset ids of the samples, or None.
    row_labels, col_labels: (m,) and (n,) labels, -1 where unknown, or None.
    extra: (m, s) logits that stand for the strategy's extra() where they are known already, or None.
    """

    logits: Tensor
    positive: Tensor
    negative: Tensor
    scale: float | Tensor
    anchors: Tensor | None = None
    candidates: Tensor | None = None
    row_ids: Tensor | None = None
    col_ids: Tensor | None = None
    row_labels: Tensor | None = None
    col_labels: Tensor | None = None
    extra: Tensor | None = None


class Strategy(nn.Module):
    """Weighs the negatives of an anchor; this one weighs all the same. A new strategy overrides what it needs."""

    supervised = False  # whether labels decide
    corrects = False  # whether correct() does anything: a loss that has no sum of exponentials refuses such a strategy

    def weights(self, rows: Rows) -> Tensor | None:
        """Log-weights w, broadcastable to (m, n): 0 keeps a negative, -inf drops it, between is soft. None: all 0."""
        return None

    def extra(self, rows: Rows) -> Tensor | None:
        """Logits (m, s) of further negatives of one's own making, each of weight 1."""
        return None

    def correct(self, log_z: Tensor, rows: Rows) -> Tensor:
        """The rows' log Z (m,), after a correction per anchor. `rows` then has the extra negatives too."""
        return log_z

    def advance(self) -> None:
        """Called once after every training batch: the place to count steps in a buffer."""

    def statistics(self) -> dict[str, Tensor]:
        """What to log of the training batches since the last call: names -> scalars."""
        return {}


def masked(rows: Rows, weights: Tensor | None) -> Rows:
    """Rows in which only what the weights keep is a negative."""
    return rows if weights is None else rows._replace(negative=rows.negative & (weights > -float("inf")))
