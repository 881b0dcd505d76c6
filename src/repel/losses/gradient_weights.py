"""What a loss makes of an anchor's negatives: how close they are, and how hard each is pushed."""

from typing import NamedTuple

import torch
from torch import Tensor

from repel.losses.base import Loss, unit
from repel.losses.rowwise import RowwiseLoss


class Influence(NamedTuple):
    """m anchors beside their P positives and n candidates, without gradient.

    positive: (m, P) cosines. negative: (m, n) cosines. exists: (m, n) bool, which candidates are negatives.
    mates: (m, n) bool, which candidates are of the anchor's class, as far as labels are known; None without labels.
    weight: (m, n + s) |dL_i / dl_ij| of the negatives, after the strategy, then of s synthetic ones; None where the
    loss has no negatives.
    temperature: t with which logits were made, or None.
    """

    positive: Tensor
    negative: Tensor
    exists: Tensor
    mates: Tensor | None
    weight: Tensor | None
    temperature: Tensor | None


def influence(
    loss: Loss, z: Tensor, keys: Tensor, labels: Tensor | None, ids: Tensor | None, anchors: int
) -> Influence:
    """Look at some of a batch's anchors, evenly spaced over it, against all candidates, the queue included.

    The weight of a negative is the derivative of its anchor's loss by its logit, so it holds for every row-wise loss
    and strategy; for InfoNCE it is the softmax (Wang, Liu 2021, arXiv:2012.09740, eq. 4). A loss that is no mean over
    anchors gets the batch's similarities alone. Nothing changes by a look: no statistics, no random numbers, no
    gradients. No other rank is needed.

    Args:
        loss: as it was called.
        z, keys: (V, N, D), and what was compared with.
        labels, ids: (N,) or None.
        anchors: at most so many, but no fewer than one of each view.
    """
    views, samples, _ = z.shape
    local = slice(None, None, -(-samples * views // max(anchors, views)))
    z, keys = z.detach(), keys.detach()
    with torch.autocast(z.device.type, enabled=False):
        if not isinstance(loss, RowwiseLoss):
            return of_batch(z[:, local], keys, torch.arange(samples, device=z.device)[local], labels)
        counting = loss.negatives.training
        loss.negatives.eval()  # what it counts is of training alone
        try:
            parts = [of_group(loss, labels, ids, *group) for group in loss.groups(z, labels, ids, local, keys, None)]
        finally:
            loss.negatives.train(counting)
    # groups have different candidates, but equally many
    joined = [None if column[0] is None else torch.cat(column) for column in list(zip(*parts, strict=True))[:-1]]
    return Influence(*joined, parts[0].temperature)


def of_group(loss: RowwiseLoss, labels, ids, sample: Tensor, columns, anchors: tuple, scale) -> Influence:
    """Anchors that have the same candidates; arguments as RowwiseLoss.groups yields them."""
    with torch.no_grad():
        rows, positives = loss.rows(sample, columns, labels, ids, *anchors, columns.z, scale)
        scale = torch.as_tensor(scale, dtype=rows.logits.dtype, device=rows.logits.device)
        rows = rows._replace(scale=scale)
        exists, extra, mates = loss.negative(rows), loss.negatives.extra(rows), None
        if labels is not None:
            mates = (rows.row_labels[:, None] == rows.col_labels) & (rows.row_labels[:, None] >= 0)
    leaves = [rows.logits.requires_grad_()]
    if extra is not None:
        leaves.append(extra.requires_grad_())
        rows = rows._replace(extra=extra)
    with torch.enable_grad():
        total = loss.per_anchor(rows, positives, anchors[1]).sum()
    slopes = torch.autograd.grad(total, leaves)
    weight = slopes[0].masked_fill(~exists, 0).abs()
    if extra is not None:
        weight = torch.cat([weight, slopes[1].abs()], dim=1)
    return Influence(positives / scale, rows.logits.detach() / scale, exists, mates, weight, 1 / scale)


def of_batch(anchors: Tensor, keys: Tensor, sample: Tensor, labels: Tensor | None) -> Influence:
    """Anchors (V, m, D) of these samples (m,) against all views of the other samples of keys (V, N, D)."""
    views, samples, _ = keys.shape
    cosine = torch.einsum("vmd,und->vmun", unit(anchors), unit(keys))
    own = cosine[:, torch.arange(len(sample), device=keys.device), :, sample]  # (m, V, V): anchors' views, keys' views
    others = ~torch.eye(views, dtype=torch.bool, device=keys.device)
    positive = own[:, others].unflatten(1, (views, -1)).transpose(0, 1).flatten(0, 1)
    exists = (sample[:, None] != torch.arange(samples, device=keys.device)).repeat(views, views)
    mates = None
    if labels is not None:
        mates = (labels[sample, None] == labels) & (labels[sample, None] >= 0)
        mates = mates.repeat(views, views)
    return Influence(positive, cosine.flatten(0, 1).flatten(1), exists, mates, None, None)
