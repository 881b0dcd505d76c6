"""What the ranks exchange."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


class GatherWithGradient(torch.autograd.Function):
    """All ranks' tensors, concatenated along the first dimension; backward sums the gradients of all ranks.

    With the loss a mean over each rank's own anchors against all candidates, and DDP averaging the parameters'
    gradients, this sum is what makes W ranks of B take the gradient of one rank of W*B
    (tests/test_distributed.py shows it).
    """

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather(tensor: Tensor) -> Tensor:
    """(B, ...) -> (W*B, ...), differentiable. All ranks must pass the same shape. One rank gets its tensor back."""
    return tensor if world_size() == 1 else GatherWithGradient.apply(tensor)
