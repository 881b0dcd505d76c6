"""Collective operations: what the ranks of a run exchange."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "gather",
    "gather_views",
    "hand_on",
    "own_blocks",
    "pass_around",
    "rank",
    "share",
    "share_blocks",
    "world_size",
]


def world_size() -> int:
    """Number of ranks W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This rank, in 0 .. W - 1; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def share(total: int, rank: int, world: int) -> slice:
    """A rank's part of a global batch; the parts differ by at most one sample.

    Example:
        >>> share(5, 0, 2), share(5, 1, 2)
        (slice(0, 2, None), slice(2, 5, None))
    """
    return slice(rank * total // world, (rank + 1) * total // world)


def gather(tensor: Tensor, total: int | None = None, ring: bool = False) -> Tensor:
    """All ranks' tensors in the order of the ranks: (B, ...) -> (N, ...), differentiable.

    N is W*B, and all ranks pass the same shape; or it is `total`, of which each rank passes its `share`. Without a
    process group the tensor comes back as it is. Backward sums the gradients of all ranks: with a loss that is a mean
    over each rank's own anchors against all candidates, and DDP averaging the parameters' gradients, W ranks of B take
    the gradient of one rank of W*B (tests/engine/test_distributed.py shows it). With `ring` the tensor comes back, too:
    each rank keeps its own, which ring_loss passes around.

    Example:
        >>> gather(torch.arange(3))
        tensor([0, 1, 2])
    """
    W = world_size()
    if W == 1 or ring:
        return tensor
    if total is None or total % W == 0:
        return _GatherWithGradient.apply(tensor)
    sizes = [len(range(total)[share(total, r, W)]) for r in range(W)]
    filler = tensor.new_zeros(max(sizes) - len(tensor), *tensor.shape[1:])  # the exchange needs equal shapes
    parts = _GatherWithGradient.apply(torch.cat([tensor, filler])).chunk(W)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_views(z: Tensor, samples: int, total: int, ring: bool = False) -> Tensor:
    """(V*B, D) of this rank's B samples -> (V, N, D) of all ranks', N in total; with `ring` (V, B, D)."""
    return gather(z.unflatten(0, (-1, samples)).transpose(0, 1), total, ring).transpose(0, 1)


def own_blocks(total: int, size: int) -> Tensor:
    """Places (n,) in 0 .. total - 1 of this rank's blocks: of those of `size`, every W-th."""
    own = [range(start, min(start + size, total)) for start in range(rank() * size, total, world_size() * size)]
    return torch.tensor([place for block in own for place in block], dtype=torch.int64)


def share_blocks(function: Callable[[Tensor], Tensor], total: int, size: int, device: torch.device) -> Tensor:
    """The rows (total, ...) that the ranks compute in turns, block by block, the same on all of them.

    Args:
        function: places (n,) of this rank's blocks, see own_blocks, to their rows (n, ...) on the device.

    Example:
        >>> share_blocks(lambda places: 2 * places, 5, 2, torch.device("cpu"))
        tensor([0, 2, 4, 6, 8])
    """
    W, places = world_size(), own_blocks(total, size)
    if W == 1:
        return function(places)
    rows = function(places)
    own = -(-total // (W * size)) * size  # of the rank that has the most, and a little more
    numbered = torch.full((own,), total, dtype=torch.int64)
    numbered[: len(places)] = places
    filled = torch.cat([rows, rows.new_zeros(own - len(rows), *rows.shape[1:])])
    order = gather(numbered.to(device)).argsort()[:total]
    return gather(filled)[order]


def hand_on(tensor: Tensor, shape: Sequence[int], tag: int = 0) -> Callable[[], Tensor]:
    """Start to send a tensor to the next rank, and to receive the previous one's, of this shape: what waits for it.

    All ranks call it alike. With one rank the tensor comes back.
    """
    W, own = world_size(), rank()
    if W == 1:
        return lambda: tensor
    operations = [
        dist.P2POp(dist.isend, tensor.contiguous(), (own + 1) % W, tag=tag),
        dist.P2POp(dist.irecv, tensor.new_empty(shape), (own - 1) % W, tag=tag),
    ]
    works = dist.batch_isend_irecv(operations)

    def wait() -> Tensor:
        for work in works:
            work.wait()
        return operations[1].tensor  # with what is sent, held until then

    return wait


def pass_around(tile: Tensor, lengths: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The tiles (V, b, D) of all ranks, each with its rank: first the own one, then that of the rank before, and so on.

    While one is used, the next is on its way; no more than these two are held.

    Args:
        lengths: b, of each rank.

    Example:
        >>> [(origin, tile.shape) for origin, tile in pass_around(torch.zeros(2, 3, 4), [3])]
        [(0, torch.Size([2, 3, 4]))]
    """
    W, own = world_size(), rank()
    for hop in range(W):
        origin = (own - hop) % W
        last = hop == W - 1
        wait = None if last else hand_on(tile, (len(tile), lengths[(origin - 1) % W], *tile.shape[2:]))
        yield origin, tile
        if wait is not None:
            tile = wait()


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
