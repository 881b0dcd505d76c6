"""The momentum encoder."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from repel.base.sized import SizedByData

HALF = (torch.bfloat16, torch.float16)


class EMA(nn.Module):
    """An exponential moving average of encoder and head, which makes the embeddings that anchors are compared with.

        theta_target <- momentum theta_target + (1 - momentum) theta      once per optimizer step

    He, Fan, Wu, Xie, Girshick 2020 (MoCo), arXiv:1911.05722, eq. 2. It runs in training mode as the network does:
    its batch norms use the batch, and keep running statistics of their own, which its weights belong to. Copied from
    the network, they would make it another function in evaluation mode. Other buffers are copied.

    The average is float32 also where the network's weights are of half precision (trainer.precision=bf16-true): in
    bfloat16 a step of less than 1/256 of a weight is lost, so that at momentum 0.999 it would stand still. It then
    computes its embeddings by autocast to the network's precision.

    Args:
        encoder, head: the network, copied.
        momentum: in [0, 1]; 0 is a copy of the network after its last step, 1 stands still, as BYOL's does at its end.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, momentum: float):
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"target.momentum must be in [0, 1], got {momentum}")
        self.encoder, self.head, self.momentum = copy.deepcopy(encoder), copy.deepcopy(head), momentum
        self.requires_grad_(False)
        self.dtype = torch.float32  # of the network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EMA":
        """What .to(), .half() and the like call: moves the average, and never makes it half precision."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype

        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF else moved

        return super()._apply(keep_precision, recurse)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> z (B, D), without gradient."""
        if self.dtype not in HALF:
            return self.head(self.encoder(x))
        with torch.autocast(next(self.parameters()).device.type, self.dtype):
            return self.head(self.encoder(x)).to(self.dtype)

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module) -> None:
        """One step towards the network."""
        for mine, theirs in ((self.encoder, encoder), (self.head, head)):
            for average, new in zip(mine.parameters(), theirs.parameters(), strict=True):
                average.lerp_(new.to(average.dtype), 1 - self.momentum)
            for own, other in zip(mine.modules(), theirs.modules(), strict=True):
                if not isinstance(own, _NormBase | SizedByData):  # what the data gave stays as it is
                    for buffer, now in zip(own.buffers(recurse=False), other.buffers(recurse=False), strict=True):
                        buffer.copy_(now)
