"""Losses over ranks without gathering: candidates pass from rank to rank, and gradients follow them home."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from repel.base.collectives import gather, hand_on, pass_around, rank, share, world_size
from repel.losses.anchor_groups import AnchorGroup
from repel.losses.base import Batch, Loss, unit
from repel.losses.chunking import auto_chunk
from repel.losses.tiles import TiledLoss
from repel.negatives.strategy import LogitBlock

__all__ = ["ring_loss", "tiled"]


def tiled(loss: Loss) -> TiledLoss:
    """The loss, if its candidates need not be together.

    Raises:
        ValueError: they do: the loss, its strategy, its queue or its candidates are not for gather=ring.

    >>> from repel.losses import NTXent
    >>> from repel.negatives import Hardest
    >>> tiled(NTXent(negatives=Hardest()))
    Traceback (most recent call last):
    ValueError: gather=ring: negatives=Hardest must see all candidates of an anchor at once; gather=all works
    """
    name = type(loss).__name__
    if not isinstance(loss, TiledLoss) or not loss.tiled:
        raise ValueError(f"gather=ring: loss={name} is not made of parts of the candidates; gather=all works")
    if loss.queue.size or loss.candidates in ("queue", "catalog"):
        chosen = "loss.candidates=catalog" if loss.takes_catalog else f"queue.size={loss.queue.size}"
        raise ValueError(f"gather=ring compares with the views of all ranks, and not with {chosen}; gather=all works")
    if (whole := loss.negatives.needs_whole()) is not None:
        raise ValueError(
            f"gather=ring: negatives={type(whole).__name__} must see all candidates of an anchor at once; "
            "gather=all works"
        )
    return loss


def ring_loss(
    loss: Loss,
    z: Tensor,
    labels: Tensor | None = None,
    ids: Tensor | None = None,
    target: Tensor | None = None,
    crops: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    total: int | None = None,
) -> Tensor:
    """The loss of this rank's anchors against the candidates of all ranks, none of which holds them all.

    Value and gradient are those of the loss of gathered embeddings. Each rank's candidates, a tile, pass from rank to
    rank (Cheng et al. 2024 (Inf-CLIP), arXiv:2410.17243, sec. 3.2). A tile gives terms for each anchor, such as the
    log-sum-exp of its part of the row, and these make the loss. Backward passes the tiles around again, computes the
    terms a second time, and sends the gradient of each tile along with it, so that it comes home with that of all
    ranks' losses: their sum, as the backward pass of `gather` has it. Memory and traffic of a rank: two tiles and two
    gradients of tiles, in place of the N samples' embeddings and their gradient. Labels and ids, a number for each
    view, are gathered.

    Args:
        loss: a row-wise loss of sums over candidates, with a strategy that weighs each by itself or by such sums.
        z, labels, ids, target, crops, negatives, negative_ids: as in a call of the loss, all of this rank's samples:
            (V, B, D), (B,), (V, B) or (B,), and so on.
        total: N, of which each rank has its `share`; None: W * B.

    Raises:
        ValueError: the loss, its strategy, its queue or its candidates are not for it; see `tiled`.

    >>> from repel.losses import NTXent
    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> round(ring_loss(NTXent(temperature=0.5), z).item(), 4)
    0.7589
    """
    loss = tiled(loss)
    total = z.shape[1] * world_size() if total is None else total
    if len(z) < 2 or total < 2:
        raise ValueError(f"a contrastive batch needs at least 2 views of 2 samples, got {len(z)} of {total}")
    if crops is not None and not loss.takes_crops:
        raise ValueError(f"{type(loss).__name__} takes no crops that are anchors only; set views.local=null")
    parts = [share(total, r, world_size()) for r in range(world_size())]
    own_ids = None if ids is None else ids.reshape(-1, z.shape[1])  # (V or 1, B)
    shown = torch.arange(total, device=z.device)[None] if own_ids is None else gather(own_ids.T, total).T
    explicit = None if negative_ids is None else gather(negative_ids.T, total).T
    everyone = _Everyone(parts, shown, None if labels is None else gather(labels, total), explicit, ids is not None)
    with torch.autocast(z.device.type, enabled=False):
        z = unit(z)
        further = [None if t is None else unit(t) for t in (crops, negatives)]
        keys = z if target is None else unit(target).detach()
        if target is not None and further[1] is not None:
            further[1] = further[1].detach()
        batch = everyone.batch(rank(), z, keys, further[1], further[0])
        batches = [batch] if loss.dims is None else [batch.cut(dims) for dims in loss.dims]
        return torch.stack([_losses(loss, everyone, each).mean() for each in batches]).sum()


class _Everyone(NamedTuple):
    """What all ranks know of all candidates.

    parts: the samples of each rank. ids: (V or 1, N). labels: (N,). negative_ids: (M, N).
    known: whether ids were given.
    """

    parts: Sequence[slice]
    ids: Tensor
    labels: Tensor | None
    negative_ids: Tensor | None
    known: bool

    def batch(self, rank: int, z: Tensor, keys: Tensor, negatives: Tensor | None, crops: Tensor | None = None) -> Batch:
        """What a rank has, as a batch of its own."""
        part = self.parts[rank]
        labels = None if self.labels is None else self.labels[part]
        shown = None if self.negative_ids is None else self.negative_ids[:, part]
        return Batch(z, keys, labels, self.ids[:, part], slice(None), crops, negatives, shown)


def _losses(loss: TiledLoss, everyone: _Everyone, batch: Batch) -> Tensor:
    """Of each of this rank's anchors."""
    if loss.takes_own_only and loss.negatives.own_only and batch.negatives is not None:
        return loss.losses(batch)  # no other rank's are candidates
    groups = loss.anchor_groups(batch)
    if not everyone.known:
        groups = [group._replace(ids=None, positive_ids=None) for group in groups]
    tile = batch.keys if batch.negatives is None else torch.cat([batch.keys, batch.negatives])
    rows = [t for group in groups for t in (group.anchors, group.positives)]
    scale = groups[0].scale
    tiles = _Tiles(loss, everyone, groups, len(batch.keys))
    found = _Ring.apply(tiles, tile, scale, *rows, *loss.parameters())
    values = []
    for group, terms in zip(groups, found, strict=True):  # (W, k, m)
        positives = (group.anchors[:, None] * group.positives).sum(-1) * scale
        logits = positives[:, :0]
        block = LogitBlock(logits, positives.mean(1), logits.bool(), scale, group.anchors, positives=positives)
        values.append(loss.from_tiles(iter(terms.unbind(1)), block, positives))
    return torch.cat(values)


class _Tiles(NamedTuple):
    """The terms of this rank's anchors against any rank's tile (V + M, b, D): its views, then explicit negatives."""

    loss: TiledLoss
    everyone: _Everyone
    groups: list[AnchorGroup]
    views: int

    def lengths(self) -> list[int]:
        """b of each rank."""
        return [part.stop - part.start for part in self.everyone.parts]

    def row_parts(self, rows: Tensor, tile: Tensor) -> Iterator[slice]:
        """The anchors (m, D) in blocks, so that logits with a tile take no more memory than row_chunk says."""
        chunk, columns = self.loss.row_chunk, len(tile) * tile.shape[1]
        if chunk == "auto":
            chunk = auto_chunk(len(rows), columns, rows.element_size(), rows.device)
        for start, stop in pairwise([*range(0, len(rows), chunk or len(rows)), len(rows)]):
            yield slice(start, stop)

    def terms(
        self, number: int, part: slice, origin: int, tile: Tensor, scale: float | Tensor, anchors: Tensor, keys: Tensor
    ) -> Tensor:
        """(k, m) of a part of a group's anchors (m, D) and positives (m, P, D)."""
        group, parts = self.groups[number], self.everyone.parts
        views, explicit = tile[: self.views], tile[self.views :] if len(tile) > self.views else None
        batch = self.everyone.batch(origin, views, views, explicit)
        assert group.samples is not None
        # numbered as the tile's samples are, so that only a rank's own tile has explicit negatives of its anchors
        samples = group.samples + parts[rank()].start - parts[origin].start
        candidates = self.loss.candidates_of(batch, group.first_view)
        group = group._replace(candidates=candidates, samples=samples)
        block, positives = self.loss.logit_block(group, part, anchors, keys, candidates.z, scale)
        return torch.stack([term.to(tile.dtype) for term in self.loss.tile_terms(block, positives)])


class _Ring(torch.autograd.Function):
    """The terms of all groups, (W, k, m) each: nothing of a tile outlives it but these."""

    @staticmethod
    def forward(ctx: Any, tiles: _Tiles, tile: Tensor, scale: float | Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        ctx.tiles, ctx.scale = tiles, None if isinstance(scale, Tensor) else scale
        ctx.save_for_backward(tile, scale if ctx.scale is None else None, *others)
        found: list[list[Tensor]] = [[tile] * world_size() for _ in tiles.groups]
        for origin, passing in pass_around(tile, tiles.lengths()):
            for number, of_group in enumerate(found):
                anchors, keys = others[2 * number : 2 * number + 2]
                of_group[origin] = torch.cat([
                    tiles.terms(number, part, origin, passing, scale, anchors[part], keys[part])
                    for part in tiles.row_parts(anchors, passing)
                ], dim=1)  # fmt: skip
        return tuple(torch.stack(of_group) for of_group in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tiles, (tile, scale, *others) = ctx.tiles, ctx.saved_tensors
        given = [scale if ctx.scale is None else ctx.scale, *others]  # what does not move
        needed = ctx.needs_input_grad[1:]
        totals = [torch.zeros_like(t) if need else None for t, need in zip(given, needed[1:], strict=True)]
        lengths, home = tiles.lengths(), None
        with torch.autocast(tile.device.type, enabled=False):
            for origin, passing in pass_around(tile, lengths):
                moving = _add_gradients(tiles, origin, passing, given, gradients, needed, totals)
                if moving is None:
                    continue
                home = moving if home is None else home.add_(moving)
                previous = (origin - 1) % world_size()  # whose tile comes next, and at the end the own one
                home = hand_on(home, (len(tile), lengths[previous], *tile.shape[2:]), tag=1)()
        return None, home, *totals


def _add_gradients(
    tiles: _Tiles, origin: int, tile: Tensor, given: list[Any], gradients: Sequence[Tensor],
    needed: Sequence[bool], totals: list[Tensor | None],
) -> Tensor | None:  # fmt: skip
    """One tile's terms once more: what they add to the gradients of what does not move, and the tile's gradient.

    Args:
        given: scale, anchors and positives of each group, parameters. totals: their gradients so far.
        gradients: of the terms, (W, k, m) each. needed: of the tile and of `given`.
    """
    leaf = tile.detach().requires_grad_(needed[0])
    moving = torch.zeros_like(tile) if needed[0] else None
    scale = given[0].detach().requires_grad_(needed[1]) if isinstance(given[0], Tensor) else given[0]
    first_parameter = 1 + 2 * len(tiles.groups)
    for number, gradient in enumerate(gradients):
        rows = (1 + 2 * number, 2 + 2 * number)
        for part in tiles.row_parts(given[rows[0]], tile):
            inputs = [scale, *given[1:]]
            for row in rows:
                inputs[row] = given[row][part].detach().requires_grad_(needed[1 + row])
            wanted = [i for i in (0, *rows, *range(first_parameter, len(given))) if needed[1 + i]]
            sources = [*([leaf] if needed[0] else []), *(inputs[i] for i in wanted)]
            with torch.enable_grad():
                terms = tiles.terms(number, part, origin, leaf, scale, *(inputs[row] for row in rows))
            found = list(torch.autograd.grad(terms, sources, gradient[origin][:, part], allow_unused=True))
            if moving is not None and (of_tile := found.pop(0)) is not None:
                moving.add_(of_tile)
            for i, new in zip(wanted, found, strict=True):
                total = totals[i]
                if new is not None and total is not None:
                    (total[part] if i in rows else total).add_(new)
    return moving
