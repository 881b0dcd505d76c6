"""What a strategy sees, and what it may do."""

from typing import NamedTuple

from torch import Tensor, nn


class Rows(NamedTuple):
    """A block of m anchors against n candidates.

    logits: (m, n) s / t, for every candidate, the anchor itself and its positives included.
    positive: (m,) the anchor's positive logit; with several positives, their mean.
    negative: (m, n) bool, which candidates are negatives of the anchor.
    scale: 1 / t, a float or a scalar tensor.
    row_ids, col_ids: (m,) and (n,) dataset ids of the samples, or None.
    row_labels, col_labels: (m,) and (n,) labels, or None.
    """

    logits: Tensor
    positive: Tensor
    negative: Tensor
    scale: float | Tensor
    row_ids: Tensor | None = None
    col_ids: Tensor | None = None
    row_labels: Tensor | None = None
    col_labels: Tensor | None = None


class Strategy(nn.Module):
    """Weighs the negatives of an anchor; this one weighs all the same. A new strategy overrides one method or both."""

    supervised = False  # whether labels decide

    def weights(self, rows: Rows) -> Tensor:
        """Log-weights w, broadcastable to (m, n): 0 keeps a negative, -inf drops it, between is soft."""
        return rows.logits.new_zeros(())

    def correct(self, log_z: Tensor, rows: Rows) -> Tensor:
        """The rows' log Z (m,), after a correction per anchor."""
        return log_z
