"""Collective operations: what the ranks of a run exchange."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather", "rank", "world_size"]


def world_size() -> int:
    """Number of ranks W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This rank, in 0 .. W - 1; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(tensor: Tensor) -> Tensor:
    """All ranks' tensors in the order of the ranks: (B, ...) -> (W*B, ...), differentiable.

    All ranks must pass the same shape. Without a process group the tensor comes back as it is. Backward sums the
    gradients of all ranks: with a loss that is a mean over each rank's own anchors against all candidates, and DDP
    averaging the parameters' gradients, W ranks of B take the gradient of one rank of W*B
    (tests/engine/test_distributed.py shows it).

    Example:
        >>> gather(torch.arange(3))
        tensor([0, 1, 2])
    """
    return tensor if world_size() == 1 else _GatherWithGradient.apply(tensor)


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
