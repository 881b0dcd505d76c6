"""What a strategy may look at."""

from typing import NamedTuple

from torch import Tensor


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
