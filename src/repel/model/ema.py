"""The momentum encoder."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class EMA(nn.Module):
    """An exponential moving average of encoder and head, which makes the embeddings that anchors are compared with.

        theta_target <- momentum theta_target + (1 - momentum) theta      once per optimizer step

    He, Fan, Wu, Xie, Girshick 2020 (MoCo), arXiv:1911.05722, eq. 2. It runs in training mode as the network does:
    its batch norms use the batch, and keep running statistics of their own, which its weights belong to. Copied from
    the network, they would make it another function in evaluation mode. Other buffers are copied.

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

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> z (B, D), without gradient."""
        return self.head(self.encoder(x))

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module) -> None:
        """One step towards the network."""
        for mine, theirs in ((self.encoder, encoder), (self.head, head)):
            for average, new in zip(mine.parameters(), theirs.parameters(), strict=True):
                average.lerp_(new, 1 - self.momentum)
            for own, other in zip(mine.modules(), theirs.modules(), strict=True):
                if not isinstance(own, _NormBase):
                    for buffer, now in zip(own.buffers(recurse=False), other.buffers(recurse=False), strict=True):
                        buffer.copy_(now)
