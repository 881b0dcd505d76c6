"""Losses that are a mean over anchors, each against many candidates.

l_ij = s_ij / t                                            cosine similarity over temperature
log Z_i = C( logsumexp over negatives j of (l_ij + w_ij) ) w, C: the negatives strategy
"""

import math
from abc import abstractmethod
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from repel.losses.anchor_groups import AnchorGroup, Candidates, check_catalog, own_block
from repel.losses.base import Batch, Dims, Loss, first_dims, shows_another, unit
from repel.losses.chunking import ALWAYS_DENSE, PEAK_MATRICES, auto_chunk, in_blocks
from repel.losses.queue import Queue
from repel.negatives.strategy import LogitBlock, Strategy
from repel.negatives.uniform import Uniform

CandidateSet = Literal["all", "cross", "same", "queue", "catalog"]
RowChunk = int | Literal["auto"] | None
# of 1 / t when it is learned; as in CLIP (Radford et al. 2021, arXiv:2103.00020, sec. 2.5), the least as in OpenCLIP
LARGEST_SCALE, SMALLEST_SCALE = 100.0, 1.0


class RowwiseLoss(Loss):
    """A mean over anchors. An anchor's positives are the other views of its sample; its negatives are the candidates
    that show no entity of this sample. A subclass defines `per_anchor`.

    Args:
        temperature: t > 0.
        learn_temperature: learn log(1/t) from there on, t from 0.01 to 1, or to `temperature` where that is more. It
            ends at a bound for losses that have no best temperature: Decoupled, DecoupledWeighted, DHEL, AlignUniform,
            Triplet(link="soft") and MultiSimilarity.
        candidates: which of the batch are candidates: `all` views, `cross`: the views other than the anchor's, `same`:
            the anchor's view, `queue`: none, only the queue and explicit negatives, `catalog`: none, but all items of
            a catalog, the exact softmax over them; with symmetric=false, without a queue and explicit negatives.
        symmetric: all views are anchors; false: the first alone.
        negatives: the strategy; None is `Uniform()`.
        queue: past embeddings, which are further candidates; None: no queue.
        row_chunk: anchors handled at a time, their gradients taken at once: memory O(row_chunk * n) for n candidates
            in place of O(V*N * n), same value and gradient. None: all at once. auto: by the memory there is.
        dims: see Loss.

    Raises:
        ValueError: an argument is out of its range, or two do not go together.
    """

    takes_crops = True
    takes_negatives = True
    takes_correction = True  # whether the strategy's C has a meaning: there is a sum of exponentials to correct
    takes_own_only = False  # whether negatives that are own_only have a form without all other candidates
    compares_queue = True  # whether the queue's entries are candidates
    compares_catalog = True  # whether candidates=catalog has a meaning
    weighs_alike = True

    def __init__(
        self, temperature: float = 0.2, learn_temperature: bool = False, candidates: CandidateSet = "all",
        symmetric: bool = True, negatives: Strategy | None = None, queue: Queue | None = None,
        row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(dims)
        negatives = Uniform() if negatives is None else negatives
        queue = Queue(0, 1) if queue is None else queue
        if not 0 < temperature < math.inf:
            raise ValueError(f"loss.temperature must be > 0, got {temperature}")
        if learn_temperature and temperature < 1 / LARGEST_SCALE:
            raise ValueError(f"loss.temperature must be at least {1 / LARGEST_SCALE} to be learned, got {temperature}")
        if candidates not in get_args(CandidateSet):
            raise ValueError(f"loss.candidates must be one of {', '.join(get_args(CandidateSet))}, got {candidates!r}")
        if candidates == "queue" and queue.size == 0:
            raise ValueError("loss.candidates=queue needs a queue: set queue.size, such as queue.size=4096")
        if candidates == "catalog":
            if not self.compares_catalog:
                raise ValueError(f"loss.candidates=catalog has no meaning for {type(self).__name__}; set others")
            check_catalog(symmetric, queue, negatives)
        if row_chunk not in (None, "auto") and (not isinstance(row_chunk, int) or row_chunk < 1):
            raise ValueError(f"loss.row_chunk must be null, auto or at least 1, got {row_chunk}")
        if negatives.corrects and not self.takes_correction:
            raise ValueError(
                f"loss={type(self).__name__} takes no debiased negatives (debiased, hcl): these correct a sum of "
                "exponentials over negatives of unknown class, which it does not have; choose another negatives="
            )
        self.temperature, self.candidates, self.symmetric = temperature, candidates, symmetric
        self.negatives, self.queue, self.row_chunk = negatives, queue, row_chunk
        self.supervised = self.supervised or negatives.supervised
        self.takes_crops = self.takes_crops and candidates != "same"  # of a crop's own view there are no candidates
        self.takes_catalog = candidates == "catalog"
        self.takes_negatives = self.takes_negatives and not self.takes_catalog
        # of 1 / t relative to its start
        self.log_factor = nn.Parameter(torch.zeros(())) if learn_temperature else None

    def on_data(self, info: Any) -> None:
        if self.queue.size and self.symmetric and info.sides > 1:
            raise ValueError(
                f"queue.size={self.queue.size}: a queue of users and items would make negatives of both for each: set "
                "loss.symmetric=false, or queue.size=0"
            )

    @abstractmethod
    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor) -> Tensor:
        """Losses (m,) of a block of anchors; begins with self.negatives.weigh(block). Without negatives, add nothing.

        Args:
            block: the anchors against all candidates, before the strategy.
            positives: (m, P) logits of the other views; of all views where anchors are crops.
            keys: (m, P, D), these views' embeddings.
        """

    def losses(self, batch: Batch) -> Tensor:
        """The loss of every local anchor, (views that are anchors * local samples,), view by view, then the crops."""
        values = []
        own = batch.negatives if self.takes_own_only and self.negatives.own_only else None
        for group in self.anchor_groups(batch if own is None else replace(batch, negatives=None)):
            if own is not None:
                block, positives = own_block(group, own, batch.negative_ids, batch.local)
                values.append(self.per_anchor(block, positives, group.positives))
                continue
            rows, shared = (group.anchors, group.positives), (group.candidates.z, group.scale)
            chunk = self.row_chunk
            if chunk == "auto":
                m, n, dim = len(group.anchors), *group.candidates.z.shape
                if self.negatives.synthesizes:
                    n += -(-self.negatives.extra_elements(dim) // PEAK_MATRICES)
                chunk = None if m * n <= ALWAYS_DENSE else auto_chunk(m, n, batch.z.element_size(), batch.z.device)
            if chunk is None:
                block, positives = self.logit_block(group, slice(None), *rows, *shared)
                values.append(self.per_anchor(block, positives, group.positives))
            else:
                part, alike = partial(self._block_losses, group), self.weighs_alike and batch.averaged_by is self
                values.append(in_blocks(part, chunk, rows, shared, self.parameters(), alike))
        return torch.cat(values)

    def anchor_groups(self, batch: Batch) -> list[AnchorGroup]:
        """The local anchors, in groups that have the same candidates, view by view, then the crops."""
        views, samples, _ = batch.z.shape
        device, anchors = batch.z.device, batch.z
        learned = None if self.log_factor is None else self._bounded(self.log_factor)
        scale = (1 if learned is None else learned.to(batch.z.dtype).exp()) / self.temperature
        sources = range(views if self.symmetric else 1)
        ranges = [sources] if self.candidates in ("all", "queue", "catalog") else [range(v, v + 1) for v in sources]
        if batch.crops is not None:
            anchors = torch.cat([anchors, batch.crops])
            ranges.append(range(views, len(anchors)))
        mine = torch.arange(samples, device=device)[batch.local]
        own = torch.arange(samples, device=device)[None] if batch.ids is None else batch.ids
        groups = []
        for anchor_views in ranges:
            first, end = anchor_views.start, anchor_views.stop
            candidates = self.candidates_of(batch, first)
            view = torch.arange(first, end, device=device).repeat_interleave(len(mine))
            sample = mine.repeat(len(anchor_views))
            others = torch.arange(views - (first < views), device=device)
            others = others + (others >= view[:, None])  # (m, P): every view but the anchor's
            shown = None if batch.ids is None else own[view.where(view < len(own), 0), sample]
            others_show = None if batch.ids is None else own[others.where(others < len(own), 0), sample[:, None]]
            labels = None if batch.labels is None else batch.labels[sample]
            rows = anchors[first:end, batch.local].flatten(0, 1), batch.keys[others, sample[:, None]]
            group = AnchorGroup(*rows, own[:, sample], shown, labels, candidates, scale, others_show, sample, view)
            groups.append(group._replace(first_view=first))
        return groups

    def candidates_of(self, batch: Batch, anchor_view: int) -> Candidates:
        """The candidates of anchors of one view, or of crops, whose view is none of the batch's."""
        keys, (views, samples, _) = batch.keys, batch.keys.shape
        if batch.catalog is not None and batch.catalog_ids is not None:
            unknown = None if batch.labels is None else torch.full_like(batch.catalog_ids, -1)
            return Candidates(batch.catalog, batch.catalog_ids, unknown, catalog=len(batch.catalog))
        # without ids every sample is an entity of its own, which the queue and explicit negatives do not show
        ids = torch.arange(samples, device=keys.device)[None] if batch.ids is None else batch.ids
        ids, labels = ids.expand(views, -1), None if batch.labels is None else batch.labels.expand(views, -1)
        if self.candidates != "all":
            every = torch.arange(views, device=keys.device)
            before, its, after = every[:anchor_view], every[anchor_view : anchor_view + 1], every[anchor_view + 1 :]
            chosen = {"queue": every[:0], "same": its, "cross": torch.cat([before, after])}[self.candidates]
            keys, ids, labels = keys[chosen], ids[chosen], None if labels is None else labels[chosen]
        parts = [Candidates(keys.flatten(0, 1), ids.flatten(), None if labels is None else labels.flatten())]
        if self.queue.size and self.compares_queue:
            past, past_ids, past_labels = self.queue.entries()
            past_ids = torch.full_like(past_ids, -1) if batch.ids is None else past_ids
            parts.append(Candidates(first_dims(past.to(keys.dtype), keys.shape[-1]), past_ids, past_labels))
        if batch.negatives is not None:
            further = batch.negatives.flatten(0, 1)
            unknown = torch.full((len(further),), -1, device=keys.device)
            shown = unknown if batch.negative_ids is None else batch.negative_ids.flatten()
            parts.append(Candidates(further, shown, unknown))
        if len(parts) == 1:
            return parts[0]
        labels = None if labels is None else torch.cat([part.labels for part in parts if part.labels is not None])
        z, shown = torch.cat([part.z for part in parts]), torch.cat([part.ids for part in parts])
        explicit = (0, 0) if batch.negatives is None else (len(batch.negatives), samples)
        return Candidates(z, shown, labels, explicit)

    def logit_block(
        self, group: AnchorGroup, part: slice, anchors: Tensor, keys: Tensor, candidates: Tensor, scale: float | Tensor
    ) -> tuple[LogitBlock, Tensor]:
        """A part of a group against all its candidates, before the strategy, and the positives' logits (m, P).

        Args:
            anchors, keys: (m, D) and (m, P, D), the part's anchors and positives. What gradients flow through is
            candidates, scale: passed beside the group, for in_blocks.
        """
        logits = (anchors * scale) @ candidates.T
        positives = (anchors[:, None] * keys).sum(-1) * scale
        negative = shows_another(group.own_ids[:, part], group.candidates.ids)
        ids = (None, None) if group.ids is None else (group.ids[part], group.candidates.ids)
        labels = (None, None) if group.labels is None else (group.labels[part], group.candidates.labels)
        block = LogitBlock(logits, positives.mean(1), negative, scale, anchors, candidates, *ids, *labels)
        shown = None if group.positive_ids is None else group.positive_ids[part]
        own, view = (None if t is None else t[part] for t in (group.samples, group.views))
        block = block._replace(positive_ids=shown, row_samples=own, row_views=view, positives=positives)
        return block._replace(explicit=group.candidates.explicit, catalog=group.candidates.catalog), positives

    def _block_losses(self, group: AnchorGroup, part: slice, anchors: Tensor, keys: Tensor, *shared: Any) -> Tensor:
        block, positives = self.logit_block(group, part, anchors, keys, *shared)
        return self.per_anchor(block, positives, keys)

    def is_negative(self, block: LogitBlock) -> Tensor:
        """Which candidates the loss repels, (m, n) bool, before the strategy."""
        return block.negative

    def _bounds(self) -> tuple[float, float]:
        """Of log_factor."""
        return min(0.0, math.log(SMALLEST_SCALE * self.temperature)), math.log(LARGEST_SCALE * self.temperature)

    def _bounded(self, log_factor: Tensor) -> Tensor:
        """log_factor as it is used: the last step may have gone too far, and update() comes before the next alone.

        Beyond a bound it has the gradient of the bound, as if it had been clamped after the step.
        """
        value = log_factor.detach()
        return log_factor - (value - value.clamp(*self._bounds()))

    def update(self, keys: Tensor, labels: Tensor | None, ids: Tensor | None) -> None:
        self.negatives.advance()
        if self.log_factor is not None:
            self.log_factor.data.clamp_(*self._bounds())
        if self.queue.size:
            compared, shape = slice(0 if self.symmetric else 1, None), keys.shape[:2]
            past = (t if t is None else t.expand(shape)[compared].flatten() for t in (ids, labels))
            self.queue.push(unit(keys[compared]).flatten(0, 1), *past)

    def statistics(self) -> dict[str, Tensor]:
        learned = {}
        if self.log_factor is not None:
            learned["train/temperature"] = self.temperature * (-self._bounded(self.log_factor.detach())).exp()
        return learned | self.negatives.statistics()
