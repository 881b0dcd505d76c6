"""Batch norm over the batches of all ranks, on CPUs, where torch's SyncBatchNorm cannot go."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repel.base.collectives import world_size


class MeanOverRanks(torch.autograd.Function):
    """The mean of all ranks' tensors; backward takes the mean of their gradients, as each rank's loss is its own."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        mean = tensor / dist.get_world_size()
        dist.all_reduce(mean)
        return mean

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient / dist.get_world_size()
        dist.all_reduce(gradient)
        return gradient


class OverRanks(_BatchNorm):
    """Takes its statistics over (W*B, ...); every rank must pass equally many. Parameters and buffers are batch norm's.

    In evaluation, and on one rank, it is batch norm.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return self.alone.forward(self, x)
        others = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        exact = x if x.dtype == torch.float64 else x.float()
        mean = MeanOverRanks.apply(exact.mean(others))
        centered = exact - mean.view(shape)
        variance = MeanOverRanks.apply(centered.square().mean(others))
        with torch.no_grad():
            self.num_batches_tracked += 1
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scaled = centered * (self.weight * (variance + self.eps).rsqrt()).view(shape)
        return (scaled + self.bias.view(shape)).to(x.dtype)


class OverRanks1d(OverRanks, nn.BatchNorm1d):
    alone = nn.BatchNorm1d


class OverRanks2d(OverRanks, nn.BatchNorm2d):
    alone = nn.BatchNorm2d


class AcrossRanks(LayerSync):
    """Lightning's way to have the batch norms of a network replaced for training, and put back after it."""

    kinds = MappingProxyType({nn.BatchNorm1d: OverRanks1d, nn.BatchNorm2d: OverRanks2d})

    def apply(self, model: nn.Module) -> nn.Module:
        return self.exchange(model, self.kinds)

    def revert(self, model: nn.Module) -> nn.Module:
        return self.exchange(model, {there: here for here, there in self.kinds.items()})

    def exchange(self, model: nn.Module, kinds: Mapping[type, type]) -> nn.Module:
        """The same modules with another class: what else refers to them, an optimiser say, need not be told."""
        for module in model.modules():
            if type(module) in kinds and usual(module):
                module.__class__ = kinds[type(module)]
        return model


def usual(module: _BatchNorm) -> bool:
    """Whether it has weights and running statistics, as OverRanks needs them."""
    return module.affine and module.track_running_stats and module.momentum is not None


def left_alone(model: nn.Module) -> bool:
    """Whether the network has batch norms that AcrossRanks does not know."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return any(type(m) not in AcrossRanks.kinds or not usual(m) for m in norms)
