"""Batch norm over the batches of all ranks on CPUs, which torch's SyncBatchNorm does not support."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repel.base.collectives import world_size

__all__ = ["CrossRankBatchNorm", "CrossRankBatchNormSync", "has_unsynced_batch_norm"]


class _MeanOverRanks(torch.autograd.Function):
    """The mean of all ranks' tensors; backward takes the mean of their gradients, as each rank's loss is its own."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        mean = tensor / dist.get_world_size()
        dist.all_reduce(mean)
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient / dist.get_world_size()
        dist.all_reduce(gradient)
        return gradient


class CrossRankBatchNorm(_BatchNorm):
    """Batch norm with statistics over the (W*B, ...) samples of all ranks; every rank must pass equally many.

    Parameters and buffers are those of batch norm. In evaluation, and on one rank, it is plain batch norm.
    """

    plain: type[_BatchNorm]
    running_mean: Tensor  # never None: _is_supported
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return self.plain.forward(self, x)
        others = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        exact = x if x.dtype == torch.float64 else x.float()
        mean = _MeanOverRanks.apply(exact.mean(others))
        centered = exact - mean.view(shape)
        variance = _MeanOverRanks.apply(centered.square().mean(others))
        with torch.no_grad():
            self.num_batches_tracked += 1
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scaled = centered * (self.weight * (variance + self.eps).rsqrt()).view(shape)
        return (scaled + self.bias.view(shape)).to(x.dtype)


class CrossRankBatchNorm1d(CrossRankBatchNorm, nn.BatchNorm1d):
    plain = nn.BatchNorm1d


class CrossRankBatchNorm2d(CrossRankBatchNorm, nn.BatchNorm2d):
    plain = nn.BatchNorm2d


class CrossRankBatchNormSync(LayerSync):
    """Replaces a network's batch norms for training, and restores them after it; a plugin of Lightning's Trainer."""

    kinds: Mapping[type, type] = MappingProxyType(
        {nn.BatchNorm1d: CrossRankBatchNorm1d, nn.BatchNorm2d: CrossRankBatchNorm2d}
    )

    def apply(self, model: nn.Module) -> nn.Module:
        return self.swap_classes(model, self.kinds)

    def revert(self, model: nn.Module) -> nn.Module:
        return self.swap_classes(model, {there: here for here, there in self.kinds.items()})

    def swap_classes(self, model: nn.Module, kinds: Mapping[type, type]) -> nn.Module:
        """Changes the class in place, so references held by the optimizer stay valid."""
        for module in model.modules():
            if isinstance(module, _BatchNorm) and type(module) in kinds and _is_supported(module):
                module.__class__ = kinds[type(module)]
        return model


def _is_supported(module: _BatchNorm) -> bool:
    """Whether it has the weights and running statistics that CrossRankBatchNorm needs."""
    return module.affine and module.track_running_stats and module.momentum is not None


def has_unsynced_batch_norm(model: nn.Module) -> bool:
    """Whether the network has batch norms that CrossRankBatchNormSync does not replace."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return any(type(m) not in CrossRankBatchNormSync.kinds or not _is_supported(m) for m in norms)
