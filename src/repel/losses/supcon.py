"""Positives by label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.losses.rowwise import RowwiseLoss
from repel.negatives.strategy import Rows


class SupCon(RowwiseLoss):
    """All samples of the anchor's class are positives, those of other classes negatives.

    Khosla, Teterwak, Wang et al. 2020, arXiv:2004.11362. With P the positives, LP = log sum_p e^{l_ip}, by `positives`
    `out`: mean_p -log( e^{l_ip} / (e^LP + Z_i) ), eq. 2;
    `in`: -log( e^LP / (e^LP + Z_i) ), eq. 3 without its constant log |P|;
    `pairwise`: mean over all pairs (i, p) of -log( e^{l_ip} / (e^{l_ip} + Z_i) ), where other positives are left out.
    A sample without a label (-1) has its other views as positives. The authors' code multiplies by temperature /
    base_temperature, which is not in the paper and not here. Labels that are all different make it NT-Xent.

    Args:
        positives: out, in or pairwise.
    """

    supervised = True
    takes_correction = False  # the labels say which negatives are none; there is no prior to take out

    def __init__(self, positives: str, **rowwise):
        super().__init__(**rowwise)
        if positives not in ("out", "in", "pairwise"):
            raise ValueError(f"loss.positives must be out, in or pairwise, got {positives!r}")
        if self.candidates != "all":
            raise ValueError(f"loss.candidates must be all for SupCon, got {self.candidates}")
        if not self.symmetric:
            raise ValueError("loss.symmetric must be true for SupCon: every sample has positives in every view")
        self.positives = positives
        self.takes_crops = positives != "pairwise"

    def losses(
        self,
        z: Tensor,
        labels: Tensor | None,
        ids: Tensor | None,
        local: slice,
        target: Tensor | None,
        crops: Tensor | None = None,
    ) -> Tensor:
        if labels is None:
            raise ValueError("loss=supcon needs labels; use data that has them, or loss=ntxent")
        values = super().losses(z, labels, ids, local, target, crops)
        return values * len(z) * z.shape[1] / self.pairs(z, labels, ids) if self.positives == "pairwise" else values

    def negative(self, rows: Rows) -> Tensor:
        mates = (rows.row_labels[:, None] == rows.col_labels) & (rows.row_labels[:, None] >= 0)
        return rows.negative & ~mates

    def per_anchor(self, rows: Rows, positives: Tensor, keys: Tensor) -> Tensor:
        mates = rows.negative & ~self.negative(rows)
        logits = rows.logits.masked_fill(~mates, 0)
        count = positives.shape[1] + mates.sum(1)
        mean = (positives.sum(1) + logits.sum(1)) / count
        rows, weights = self.weighed(rows._replace(negative=rows.negative & ~mates, positive=mean))
        log_z = self.log_z(rows, weights)
        if self.positives == "pairwise":
            of_mates = F.softplus(log_z[:, None] - logits).masked_fill(~mates, 0).sum(1)
            return F.softplus(log_z[:, None] - positives).sum(1) + of_mates
        every = torch.cat([positives, rows.logits[:, : mates.shape[1]].masked_fill(~mates, -torch.inf)], dim=1)
        of_all = every.logsumexp(1)
        within = F.softplus(log_z - of_all)
        return within if self.positives == "in" else within + of_all - mean

    def pairs(self, z: Tensor, labels: Tensor, ids: Tensor | None) -> Tensor:
        """How many pairs of an anchor and a positive there are among all ranks' anchors."""
        views, samples, _ = z.shape
        known = labels >= 0
        _, past_ids, past = self.queue.entries()
        mates = views * (matches(labels[known], labels[known]) - known.sum()) + matches(labels[known], past)
        if ids is not None:
            mates = mates - matches(ids[known], past_ids)
        return views * (samples * (views - 1) + mates)


def matches(a: Tensor, b: Tensor) -> Tensor:
    """How many pairs (i, j) have a_i = b_j, of (n,) and (m,), without an n x m matrix."""
    if len(b) == 0:
        return b.new_zeros(())
    values, counts = b.unique(return_counts=True)
    place = torch.searchsorted(values, a).clamp(max=len(values) - 1)
    return (counts[place] * (values[place] == a)).sum()
