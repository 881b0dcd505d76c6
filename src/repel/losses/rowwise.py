"""Losses that are a mean over anchors, each against many candidates: how a row is made, weighed and bounded in memory.

l_ij = s_ij / t                                            cosine similarity over temperature
log Z_i = C( logsumexp over negatives j of (l_ij + w_ij) ) w, C: the negatives strategy
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repel.losses.base import Loss, check_views, unit
from repel.losses.chunking import auto_chunk, in_blocks
from repel.losses.queue import Queue
from repel.negatives.strategy import Rows, Strategy, masked

CANDIDATES = ("all", "cross", "same", "queue")
LARGEST_SCALE = 100.0  # of 1 / t when it is learned, as in CLIP (Radford et al. 2021, arXiv:2103.00020, sec. 2.5)


class Embeddings(NamedTuple):
    """Unit vectors z (M, D) and, for each, its view, its sample in the batch (-1: of the queue), id and label, (M,)."""

    z: Tensor
    view: Tensor
    sample: Tensor
    ids: Tensor | None
    labels: Tensor | None

    def take(self, places: Tensor | slice) -> "Embeddings":
        return Embeddings(*(t if t is None else t[places] for t in self))


class RowwiseLoss(Loss):
    """A mean over anchors. An anchor's positives are the other views of its sample; its negatives are other samples.

    With target embeddings, anchors are compared with these, without gradient, in place of the batch's own.

    Args:
        temperature: t > 0.
        learn_temperature: learn log(1/t) from there on, 1/t at most 100.
        candidates: which of the batch are candidates: `all` views, `cross`: the views other than the anchor's, `same`:
            the anchor's view, `queue`: none, only the queue.
        symmetric: all views are anchors; false: the first alone.
        negatives: the strategy.
        queue: past embeddings, which are further candidates.
        row_chunk: anchors handled at a time, their gradients taken at once: memory O(row_chunk * n) for n
            candidates in place of O(V*N * n), same value and gradient. None: all at once. auto: by the memory there is.
    """

    takes_crops = True
    takes_correction = True  # whether the strategy's C has a meaning: there is a sum of exponentials to correct

    def __init__(
        self,
        temperature: float,
        learn_temperature: bool,
        candidates: str,
        symmetric: bool,
        negatives: Strategy,
        queue: Queue,
        row_chunk: int | str | None,
    ):
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"loss.temperature must be > 0, got {temperature}")
        if learn_temperature and temperature < 1 / LARGEST_SCALE:
            raise ValueError(f"loss.temperature must be at least {1 / LARGEST_SCALE} to be learned, got {temperature}")
        if candidates not in CANDIDATES:
            raise ValueError(f"loss.candidates must be one of {', '.join(CANDIDATES)}, got {candidates!r}")
        if candidates == "queue" and queue.size == 0:
            raise ValueError("loss.candidates=queue needs a queue: set queue.size, such as queue.size=4096")
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
        # of 1 / t relative to its start
        self.log_factor = nn.Parameter(torch.zeros(())) if learn_temperature else None

    # ------------------------------------------------------------------------------------- what a loss overrides

    @abstractmethod
    def per_anchor(self, rows: Rows, positives: Tensor, keys: Tensor) -> Tensor:
        """Losses (m,) of a block of anchors; begins with weighed(rows). No negatives left should add nothing.

        Args:
            rows: the anchors against all candidates, before the strategy.
            positives: (m, P) logits of the other views; of all views where anchors are crops.
            keys: (m, P, D), these views' embeddings.
        """

    def scale(self, anchors: Tensor, keys: Tensor) -> float | Tensor:
        """1 / t, for anchors and keys (V, N, D) of all ranks."""
        return (1 if self.log_factor is None else self.log_factor.to(keys.dtype).exp()) / self.temperature

    def roles(
        self, z: Tensor, keys: Tensor, labels: Tensor | None, ids: Tensor | None, local: slice
    ) -> tuple[Tensor, Tensor]:
        """Which embeddings are anchors, and which are candidates, both (V, N, D)."""
        return z, keys

    # -------------------------------------------------------------------------------------------- what they share

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        local: slice = slice(None),
        target: Tensor | None = None,
        crops: Tensor | None = None,
    ) -> Tensor:
        return self.losses(z, labels, ids, local, target, crops).mean()

    def losses(
        self,
        z: Tensor,
        labels: Tensor | None,
        ids: Tensor | None,
        local: slice,
        target: Tensor | None,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The loss of every local anchor, (views that are anchors * local samples,), view by view, then the crops."""
        with torch.autocast(z.device.type, enabled=False):
            values = []
            for sample, columns, rows, scale in self.groups(z, labels, ids, local, target, crops):
                block = partial(self.block, sample, columns, labels, ids)
                chunk = self.row_chunk
                if chunk == "auto":
                    chunk = auto_chunk(len(sample), len(columns.z), columns.z.element_size(), z.device)
                values.append(in_blocks(block, chunk, rows, (columns.z, scale), self.parameters()))
            return torch.cat(values)

    def groups(
        self,
        z: Tensor,
        labels: Tensor | None,
        ids: Tensor | None,
        local: slice,
        target: Tensor | None,
        crops: Tensor | None,
    ) -> Iterator[tuple[Tensor, Embeddings, tuple[Tensor, Tensor], float | Tensor]]:
        """The local anchors, in groups that have the same candidates; to be gone through with autocast off.

        Yields:
            The anchors' samples (m,), their candidates, the anchors (m, D) with their positives (m, P, D), and 1 / t.
        """
        views, samples = check_views(z)
        z = unit(z)
        anchors, keys = self.roles(z, z if target is None else unit(target).detach(), labels, ids, local)
        scale = self.scale(anchors, keys)
        mine = torch.arange(samples, device=z.device)[local]
        sources = torch.arange(views if self.symmetric else 1, device=z.device)
        # views with the same candidates go together
        groups = [sources] if self.candidates in ("all", "queue") else list(sources.split(1))
        if crops is not None:
            anchors = torch.cat([anchors, unit(crops)])
            groups.append(torch.arange(views, len(anchors), device=z.device))
        for group in groups:
            columns = self.columns(keys, labels, ids, group)
            view, sample = group.repeat_interleave(len(mine)), mine.repeat(len(group))
            others = torch.arange(views - (int(group[0]) < views), device=z.device)
            others = others + (others >= view[:, None])  # (m, P): every view but the anchor's
            rows = anchors[view, sample], keys[others, sample[:, None]]
            yield sample, columns, rows, scale

    def columns(self, keys: Tensor, labels: Tensor | None, ids: Tensor | None, anchor_views: Tensor) -> Embeddings:
        """The candidates of anchors of these views."""
        batch = self.of_batch(keys, labels, ids, anchor_views)
        if len(self.queue) == 0:
            return batch
        z, past_ids, past_labels = self.queue.entries()
        none = torch.full_like(past_ids, -1)
        past = Embeddings(z.to(keys.dtype), none, none, past_ids, past_labels)
        return Embeddings(*(None if a is None else torch.cat([a, b]) for a, b in zip(batch, past, strict=True)))

    def of_batch(self, keys: Tensor, labels: Tensor | None, ids: Tensor | None, anchor_views: Tensor) -> Embeddings:
        """The candidates that the batch itself has for them."""
        views, samples, _ = keys.shape
        view = torch.arange(views, device=keys.device).repeat_interleave(samples)
        sample = torch.arange(samples, device=keys.device).repeat(views)
        per_view = [t if t is None else t.repeat(views) for t in (ids, labels)]
        batch = Embeddings(keys.flatten(0, 1), view, sample, *per_view)
        if self.candidates == "all":
            return batch
        if self.candidates == "queue":
            return batch.take(slice(0, 0))
        of_anchor = view == anchor_views[0]  # of no candidate, where anchors are crops
        return batch.take(of_anchor == (self.candidates == "same"))

    def block(
        self,
        sample: Tensor,
        columns: Embeddings,
        labels: Tensor | None,
        ids: Tensor | None,
        part: slice,
        one: Tensor,
        positive_keys: Tensor,
        candidates: Tensor,
        scale: float | Tensor,
    ) -> Tensor:
        """The losses (m,) of a part of the anchors, which are of these samples, against all columns.

        Args:
            one: (m, D), the part's anchors.
            positive_keys: (m, P, D), their positives.
            candidates: (n, D), the columns' embeddings. What gradients flow through comes last, for in_blocks.
        """
        rows, positives = self.rows(sample[part], columns, labels, ids, one, positive_keys, candidates, scale)
        return self.per_anchor(rows, positives, positive_keys)

    def rows(
        self,
        sample: Tensor,
        columns: Embeddings,
        labels: Tensor | None,
        ids: Tensor | None,
        one: Tensor,
        positive_keys: Tensor,
        candidates: Tensor,
        scale: float | Tensor,
    ) -> tuple[Rows, Tensor]:
        """Anchors (m, D), which are of these samples, against all columns; and their positives' logits (m, P)."""
        row_ids, row_labels = (t if t is None else t[sample] for t in (ids, labels))
        logits = (one * scale) @ candidates.T
        positives = (one[:, None] * positive_keys).sum(-1) * scale
        negative = sample[:, None] != columns.sample
        if ids is not None and self.queue.size:  # the same image may be in the queue
            negative &= row_ids[:, None] != columns.ids
        rows = Rows(
            logits, positives.mean(1), negative, scale, one, candidates,
            row_ids, columns.ids, row_labels, columns.labels,
        )  # fmt: skip
        return rows, positives

    def negative(self, rows: Rows) -> Tensor:
        """Which candidates the loss repels, (m, n) bool, before the strategy."""
        return rows.negative

    def weighed(self, rows: Rows) -> tuple[Rows, Tensor | None]:
        """Rows after the strategy, extra negatives appended, and the log-weights, or None where all are 0."""
        weights = self.negatives.weights(rows)
        extra = self.negatives.extra(rows) if rows.extra is None else rows.extra
        rows = masked(rows, weights)
        if weights is not None:  # finite everywhere: -inf is in the mask, so that no NaN gets into a gradient
            weights = weights.masked_fill(~rows.negative, 0)
        if extra is None:
            return rows, weights
        exists = torch.isfinite(extra)
        if weights is not None:
            weights = torch.cat([weights.expand_as(rows.logits), torch.zeros_like(extra)], dim=1)
        logits = torch.cat([rows.logits, extra.masked_fill(~exists, 0)], dim=1)
        return rows._replace(logits=logits, negative=torch.cat([rows.negative, exists], dim=1)), weights

    def log_z(self, rows: Rows, weights: Tensor | None) -> Tensor:
        """log Z (m,); -inf where no negative is left."""
        weighted = rows.logits if weights is None else rows.logits + weights
        # masked by a boolean, not by adding -inf: an anchor that keeps no negative then has no gradient, not NaN
        return self.negatives.correct(weighted.masked_fill(~rows.negative, -torch.inf).logsumexp(1), rows)

    def update(self, keys: Tensor, labels: Tensor | None, ids: Tensor | None) -> None:
        self.negatives.advance()
        if self.log_factor is not None:
            self.log_factor.data.clamp_(max=math.log(LARGEST_SCALE * self.temperature))
        if self.queue.size:
            keys = unit(keys if self.symmetric else keys[1:])
            past = (t if t is None else t.repeat(len(keys)) for t in (ids, labels))
            self.queue.push(keys.flatten(0, 1), *past)

    def statistics(self) -> dict[str, Tensor]:
        learned = {}
        if self.log_factor is not None:
            learned["train/temperature"] = self.temperature * (-self.log_factor.detach()).exp()
        return learned | self.negatives.statistics()
