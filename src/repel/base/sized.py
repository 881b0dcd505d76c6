"""Modules whose state gets its size from the data."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SameOnRanks", "SizedByData", "given_buffers", "random_vectors"]


class SameOnRanks(nn.Module):
    """Its own buffers are the same on every rank by themselves: DDP need not send them in every step."""


class SizedByData(SameOnRanks):
    """Its own buffers and parameters take the shape that a checkpoint has for them.

    Such a module makes them with a size of 0 in __init__, fills them in `on_data` (see repel/data/samples.py) where it
    is trained, and gets them from the checkpoint where it is used: there the data is not read.

    shows_data: its buffers are the training data itself, such as a graph: a run that starts from the weights of another
    keeps its own.
    weights_of: a buffer that says what its weights and those within it are for, such as a vocabulary; '': they are for
    any data. A run takes no such weights of another where this buffer differs.
    """

    shows_data = False
    weights_of = ""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, own in [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]:
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != own.shape:
                empty = torch.empty(saved.shape, dtype=own.dtype, device=own.device)
                setattr(self, name, nn.Parameter(empty, own.requires_grad) if isinstance(own, nn.Parameter) else empty)
        super()._load_from_state_dict(state_dict, prefix, *args)


def given_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers that are the same on every rank without being sent, at any depth.

    They are those that the data gave, and those that every rank fills alike, such as a queue.
    """
    alike = [buffer for part in module.modules() if isinstance(part, SameOnRanks) for buffer in part.buffers(False)]
    return [name for name, own in module.named_buffers() if any(own is buffer for buffer in alike)]


def random_vectors(n: int, like: Tensor, seed: int) -> Tensor:
    """(n, F) from a normal distribution, of length about 1, with the width, type and device of a matrix (..., F)."""
    width = like.shape[1]
    return (torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * width**-0.5).to(like)
