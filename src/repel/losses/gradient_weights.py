"""Weight of each negative, |dL / dl_ij|, for Monitor, Health and whoever wants to see what a strategy does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from repel.base.modes import evaluation_mode
from repel.losses.anchor_groups import AnchorGroup
from repel.losses.base import Batch, Loss, shows_another, unit
from repel.losses.joint import Joint
from repel.losses.rowwise import RowwiseLoss
from repel.negatives.strategy import same_class


class NegativeWeights(NamedTuple):
    """m anchors with their P positives and n candidates, without gradient.

    Args:
        positive: (m, P) cosines.
        negative: (m, n) cosines.
        is_negative: (m, n) bool, which candidates are negatives.
        same_class: (m, n) bool, which candidates are of the anchor's class, as far as known; None without labels.
        weight: (m, n + s) |dL_i / dl_ij| of the negatives, after the strategy, then of s synthetic ones; None where
            the loss has no negatives.
        temperature: t with which logits were made, or None.
        anchor_ids: (m,) entities that the anchors show, or None.
        candidate_ids: (m, n) entities that the candidates show, -1 where unknown, or None.
    """

    positive: Tensor
    negative: Tensor
    is_negative: Tensor
    same_class: Tensor | None
    weight: Tensor | None
    temperature: Tensor | None
    anchor_ids: Tensor | None = None
    candidate_ids: Tensor | None = None


def negative_weights(
    loss: Loss,
    z: Tensor,
    keys: Tensor,
    labels: Tensor | None,
    ids: Tensor | None,
    anchors: int,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    catalog: Tensor | None = None,
    catalog_ids: Tensor | None = None,
) -> NegativeWeights:
    """How some of a batch's anchors, evenly spaced over it, see all candidates, the queue included.

    The weight of a negative is the derivative of its anchor's loss by its logit, so it holds for every row-wise loss
    and strategy; for InfoNCE it is the softmax (Wang, Liu 2021, arXiv:2012.09740, eq. 4). A loss that is no mean over
    anchors gets the batch's similarities alone; of a joint one the first member is seen. This changes nothing: no
    statistics, no random numbers, no gradients. No other rank is needed.

    Args:
        loss: as it was called.
        z, keys: (V, N, D), and what was compared with.
        labels: (N,), or None.
        ids: (V, N) or (N,), or None.
        anchors: at most so many, but no fewer than one of each view.
        negatives, negative_ids: (M, N, D) and (M, N), explicit negatives as in the call, or None.
        catalog, catalog_ids: (E, D) and (E,), as in the call, or None.

    >>> from repel.losses import NTXent
    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> seen = negative_weights(NTXent(temperature=0.5), z, z, None, None, anchors=4)
    >>> seen.is_negative[0].tolist()
    [False, True, False, True]
    >>> seen.weight[0].tolist()
    [0.0, 0.1879657804965973, 0.0, 0.1879657804965973]
    """
    if isinstance(loss, Joint):
        first = next(iter(loss.parts.values()))
        z, keys = first.rows(z), first.rows(keys)
        ids = ids if ids is None or ids.ndim == 1 else first.rows(ids)
        given = [negatives, negative_ids, catalog, catalog_ids]
        return negative_weights(first.loss, z, keys, labels, ids, anchors, *(given if first.sees_first else []))
    views, samples, _ = z.shape
    local = slice(None, None, -(-samples * views // max(anchors, views)))
    if ids is not None and ids.ndim == 1:
        ids = ids[None]
    with torch.autocast(z.device.type, enabled=False):
        further = [None if t is None else unit(t.detach()) for t in (negatives, catalog)]
        batch = Batch(unit(z.detach()), unit(keys.detach()), labels, ids, local, None, further[0], negative_ids)
        batch = replace(batch, catalog=further[1], catalog_ids=catalog_ids)
        return _anchor_weights(loss, batch) if isinstance(loss, RowwiseLoss) else _batch_similarities(batch)


def _anchor_weights(loss: RowwiseLoss, batch: Batch) -> NegativeWeights:
    with evaluation_mode(loss.negatives):  # what it counts is of training alone
        parts = [_group_weights(loss, group) for group in loss.anchor_groups(batch)]
    # groups have different candidates, but equally many
    return NegativeWeights(
        torch.cat([part.positive for part in parts]), torch.cat([part.negative for part in parts]),
        torch.cat([part.is_negative for part in parts]), _joined([part.same_class for part in parts]),
        _joined([part.weight for part in parts]), parts[0].temperature,
        _joined([part.anchor_ids for part in parts]), _joined([part.candidate_ids for part in parts]),
    )  # fmt: skip


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenated; None where there are none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def _group_weights(loss: RowwiseLoss, group: AnchorGroup) -> NegativeWeights:
    with torch.no_grad():
        rows = group.anchors, group.positives
        block, positives = loss.logit_block(group, slice(None), *rows, group.candidates.z, group.scale)
        scale = torch.as_tensor(group.scale, dtype=block.logits.dtype, device=block.logits.device)
        block = block._replace(scale=scale)
        negative, mates = loss.is_negative(block), None
        extra = loss.negatives.extra(block) if block.logits.shape[1] else None
        if block.row_labels is not None and block.col_labels is not None:
            mates = same_class(block.row_labels, block.col_labels)
    leaves = [block.logits.requires_grad_()]
    if extra is not None:
        leaves.append(extra.requires_grad_())
        block = block._replace(extra=extra)
    with torch.enable_grad():
        total = loss.per_anchor(block, positives, group.positives).sum()
    slopes = torch.autograd.grad(total, leaves)
    weight = slopes[0].masked_fill(~negative, 0).abs()
    if extra is not None:
        weight = torch.cat([weight, slopes[1].abs()], dim=1)
    shown = None if block.col_ids is None else block.col_ids.expand_as(negative)
    cosines = positives / scale, block.logits.detach() / scale
    return NegativeWeights(*cosines, negative, mates, weight, 1 / scale, block.row_ids, shown)


def _batch_similarities(batch: Batch) -> NegativeWeights:
    """The batch's local anchors (V, m, D) against all views of the samples of keys (V, N, D)."""
    views, samples, _ = batch.keys.shape
    every = torch.arange(samples, device=batch.keys.device)
    sample, own = every[batch.local], every[None] if batch.ids is None else batch.ids
    cosine = torch.einsum("vmd,und->vmun", batch.z[:, batch.local], batch.keys)
    same = cosine[:, torch.arange(len(sample), device=every.device), :, sample]  # (m, V, V): anchors', keys' views
    others = ~torch.eye(views, dtype=torch.bool, device=every.device)
    positive = same[:, others].unflatten(1, (views, -1)).transpose(0, 1).flatten(0, 1)
    negative = shows_another(own[:, sample], own.expand(views, -1).flatten()).repeat(views, 1)
    mates = None
    if batch.labels is not None:
        mates = same_class(batch.labels[sample], batch.labels).repeat(views, views)
    return NegativeWeights(positive, cosine.flatten(0, 1).flatten(1), negative, mates, None, None)
