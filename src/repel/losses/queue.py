"""Embeddings of past batches."""

from typing import Any

import torch
from torch import Tensor

from repel.base.sized import SameOnRanks


class Queue(SameOnRanks):
    """The last `size` embeddings with their dataset ids and labels, the oldest overwritten first.

    He, Fan, Wu, Xie, Girshick 2020 (MoCo), arXiv:1911.05722, sec. 3.2; Wang, Zhang, Huang, Scott 2020 (cross-batch
    memory), arXiv:1912.06798. Only slots that were written are ever returned, so that it is valid from the first step;
    size and batch size need not divide each other. All of it is in the state dict. Given the gathered embeddings, it is
    the same on all ranks.

    Args:
        size: K; 0 holds nothing.
        dim: D.

    Raises:
        ValueError: size is not a whole number, 0 or more.

    >>> queue = Queue(size=3, dim=2)
    >>> queue.push(torch.eye(2), ids=torch.tensor([7, 8]), labels=None)
    >>> z, ids, labels = queue.entries()
    >>> z.tolist(), ids.tolist(), labels.tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [7, 8], [-1, -1])
    """

    z: Tensor
    ids: Tensor
    labels: Tensor
    written: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"queue.size must be a whole number, 0 or more, got {size}")
        self.size = size
        self.register_buffer("z", torch.zeros(size, dim))
        self.register_buffer("ids", torch.full((size,), -1))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))  # since the start, overwritten ones too
        self._count = 0  # the same on the host, so that no step waits for a GPU

    def __len__(self) -> int:
        return min(self._count, self.size)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._count = int(self.written)

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """z (k, D), ids (k,) and labels (k,), -1 where unknown, of the slots in use. Copy them before the next push."""
        used = len(self)
        return self.z[:used], self.ids[:used], self.labels[:used]

    @torch.no_grad()
    def push(self, z: Tensor, ids: Tensor | None, labels: Tensor | None) -> None:
        """Add embeddings (M, D), their ids (M,) and labels (M,) or None, in this order."""
        if self.size == 0:
            return
        z = z[-self.size :]
        slots = (self._count + torch.arange(len(z), device=z.device)) % self.size
        self.z[slots] = z.detach().to(self.z.dtype)
        for mine, new in ((self.ids, ids), (self.labels, labels)):
            mine[slots] = -1 if new is None else new[-self.size :]
        self.written += len(z)
        self._count += len(z)
