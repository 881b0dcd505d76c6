"""Positives by label."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.losses.base import Batch, Dims, shows_another
from repel.losses.queue import Queue
from repel.losses.rowwise import CandidateSet, RowChunk, RowwiseLoss
from repel.negatives.strategy import LogitBlock, Strategy, same_class


class SupCon(RowwiseLoss):
    """All samples of the anchor's class are positives, those of other classes negatives.

    Khosla, Teterwak, Wang et al. 2020, arXiv:2004.11362. With P the positives, LP = log sum_p e^{l_ip}, by `positives`
    `out`: mean_p -log( e^{l_ip} / (e^LP + Z_i) ), eq. 2;
    `in`: -log( e^LP / (e^LP + Z_i) ), eq. 3 without its constant log |P|;
    `pairwise`: mean over all pairs (i, p) of -log( e^{l_ip} / (e^{l_ip} + Z_i) ), where other positives are left out.
    A sample without a label (-1) has its other views as positives. A candidate that shows the anchor's own entity a
    second time is neither. The authors' code multiplies by temperature /
    base_temperature, which is not in the paper and not here. Labels that are all different make it NT-Xent.

    Args:
        positives: out, in or pairwise.
        temperature, learn_temperature, ...: see RowwiseLoss, errors included. `candidates` is all, `symmetric` true.

    Raises:
        ValueError: a call without labels.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(SupCon()(z, labels=torch.tensor([0, 1])).item(), 4)
    0.7544
    """

    supervised = True
    compares_catalog = False  # of which items have no labels
    weighs_alike = True
    takes_correction = False  # the labels say which candidates are false negatives; there is no prior to subtract

    def __init__(
        self, positives: Literal["out", "in", "pairwise"] = "out", *,
        temperature: float = 0.1, learn_temperature: bool = False,
        candidates: CandidateSet = "all", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        if positives not in ("out", "in", "pairwise"):
            raise ValueError(f"loss.positives must be out, in or pairwise, got {positives!r}")
        if self.candidates != "all":
            raise ValueError(f"loss.candidates must be all for SupCon, got {self.candidates}")
        if not self.symmetric:
            raise ValueError("loss.symmetric must be true for SupCon: every sample has positives in every view")
        self.positives = positives
        self.takes_crops = positives != "pairwise"

    def losses(self, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("loss=supcon needs labels; use data that has them, or loss=ntxent")
        values = super().losses(batch)
        if self.positives == "pairwise":
            values = values * batch.z.shape[0] * batch.z.shape[1] / self.pairs(batch)
        return values

    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor) -> Tensor:
        others = block.negative & ~self.is_negative(block)  # of the anchor's class, but of other entities
        logits = block.logits.masked_fill(~others, 0)
        count = positives.shape[1] + others.sum(1)
        mean = (positives.sum(1) + logits.sum(1)) / count
        block = self.negatives.weigh(block._replace(negative=block.negative & ~others, positive=mean))
        log_z = self.negatives.log_z(block)
        if self.positives == "pairwise":
            by_label = F.softplus(log_z[:, None] - logits).masked_fill(~others, 0).sum(1)
            return F.softplus(log_z[:, None] - positives).sum(1) + by_label
        every = torch.cat([positives, block.logits[:, : others.shape[1]].masked_fill(~others, -torch.inf)], dim=1)
        every_log_sum = every.logsumexp(1)
        within = F.softplus(log_z - every_log_sum)
        return within if self.positives == "in" else within + every_log_sum - mean

    def is_negative(self, block: LogitBlock) -> Tensor:
        assert block.row_labels is not None, "losses() checks that there are labels"
        assert block.col_labels is not None, "and candidates have them then"
        return block.negative & ~same_class(block.row_labels, block.col_labels)

    def pairs(self, batch: Batch) -> Tensor:
        """How many pairs of an anchor and a positive there are among all ranks' anchors."""
        views, samples, _ = batch.z.shape
        (group,) = self.anchor_groups(replace(batch, local=slice(None), crops=None))
        assert group.labels is not None, "losses() checks that there are labels"
        assert group.candidates.labels is not None, "and candidates have them then"
        found = torch.zeros((), dtype=torch.int64, device=batch.z.device)
        for part in torch.arange(len(group.anchors), device=batch.z.device).split(1024):
            other = shows_another(group.own_ids[:, part], group.candidates.ids)
            found += (other & same_class(group.labels[part], group.candidates.labels)).sum()
        return views * samples * (views - 1) + found
