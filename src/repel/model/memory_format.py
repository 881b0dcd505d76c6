"""The order of numbers in memory in which convolutions are computed."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["use_channels_last"]

NARROW = 8  # output channels, below which oneDNN (of torch 2.15, AVX2) writes outside its memory in the backward pass


def use_channels_last(encoder: nn.Module) -> None:
    """Have an image encoder hold its convolutions' weights, and get its images, with the channels last in memory.

    Shapes, values and names of weights stay; results agree within rounding. Faster where convolutions are computed in
    this order, as on GPUs with tensor cores in half precision. (SmallResNet and TorchvisionResNet hold their weights
    so in any case.)

    Args:
        encoder: images (B, C, H, W) -> features (B, F).

    Raises:
        ValueError: it has no 2-D convolution, or one too narrow for this.

    Example:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
        >>> use_channels_last(encoder)
        >>> encoder[0].weight.is_contiguous(memory_format=torch.channels_last)
        True
    """
    convolutions = [part for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    if not convolutions:
        raise ValueError(
            f"channels_last=true: {type(encoder).__name__} has no 2-D convolution, of images; type channels_last=false"
        )
    if (least := min(part.out_channels for part in convolutions)) < NARROW:
        raise ValueError(
            f"channels_last=true: a convolution of this encoder has {least} channels, and with fewer than {NARROW} "
            "some CPUs compute it wrongly in this order; use a wider encoder, or type channels_last=false"
        )
    encoder.to(memory_format=torch.channels_last)
    encoder.register_forward_pre_hook(_channels_last)


def _channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images: Tensor = inputs[0]
    return images.contiguous(memory_format=torch.channels_last), *inputs[1:]
