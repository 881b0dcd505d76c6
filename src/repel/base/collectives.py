"""Collective operations: what the ranks of a run exchange."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather", "gather_views", "rank", "share", "world_size"]


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


def gather(tensor: Tensor, total: int | None = None) -> Tensor:
    """All ranks' tensors in the order of the ranks: (B, ...) -> (N, ...), differentiable.

    N is W*B, and all ranks pass the same shape; or it is `total`, of which each rank passes its `share`. Without a
    process group the tensor comes back as it is. Backward sums the gradients of all ranks: with a loss that is a mean
    over each rank's own anchors against all candidates, and DDP averaging the parameters' gradients, W ranks of B take
    the gradient of one rank of W*B (tests/engine/test_distributed.py shows it).

    Example:
        >>> gather(torch.arange(3))
        tensor([0, 1, 2])
    """
    W = world_size()
    if W == 1:
        return tensor
    if total is None or total % W == 0:
        return _GatherWithGradient.apply(tensor)
    sizes = [len(range(total)[share(total, r, W)]) for r in range(W)]
    filler = tensor.new_zeros(max(sizes) - len(tensor), *tensor.shape[1:])  # the exchange needs equal shapes
    parts = _GatherWithGradient.apply(torch.cat([tensor, filler])).chunk(W)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_views(z: Tensor, samples: int, total: int) -> Tensor:
    """(V*B, D) of this rank's B samples -> (V, N, D) of all ranks', N in total."""
    return gather(z.unflatten(0, (-1, samples)).transpose(0, 1), total).transpose(0, 1)


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
