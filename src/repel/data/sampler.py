"""Which samples make up each batch: a pure function of (seed, epoch), the same for any number of ranks."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from repel.base.collectives import share

__all__ = ["BatchIndices", "GlobalBatches", "ValidationBatches"]


class BatchIndices(NamedTuple):
    """One rank's part of a global batch.

    epoch, step: counters, from which everything random about the batch follows.
    places: (B,) of its samples.
    local: where these are in the global batch.
    total: samples of the global batch.
    """

    epoch: int
    step: int
    places: Tensor
    local: slice
    total: int


class GlobalBatches:
    """A sampler of global batches: rank r takes the r-th slice of each.

    The last, incomplete global batch is left out: the loss compares the samples of a batch with one another, so all
    batches, on all ranks, have the same size.

    Args:
        order: of an epoch, the places of all n samples, in pieces.
        n: samples.
        batch_size: of the global batch, a multiple of world.
        position: how many batches have been trained on so far; an epoch starts from there, so that a resumed run goes
            on in the middle of an epoch.
        per_epoch: batches in an epoch, at most n // batch_size.
    """

    def __init__(
        self,
        order: Callable[[int], Iterator[Tensor]],
        n: int,
        batch_size: int,
        rank: int,
        world: int,
        position: Callable[[], int],
        per_epoch: int,
    ):
        assert batch_size % world == 0, "config.check divides the batch over the ranks"
        self.order, self.n, self.batch_size, self.per_epoch, self.position = order, n, batch_size, per_epoch, position
        self.local = share(batch_size, rank, world)

    def __len__(self) -> int:
        return self.n // self.batch_size  # without trainer.limit_train_batches, which Lightning applies itself

    def __iter__(self) -> Iterator[BatchIndices]:
        # not a generator: the position is read now, before a worker asks for the first batch
        return self.batches(*divmod(self.position(), self.per_epoch))

    def batches(self, epoch: int, first: int) -> Iterator[BatchIndices]:
        """The epoch's batches from the first on, holding one piece of the order at a time."""
        step, rest = 0, torch.empty(0, dtype=torch.int64)
        for piece in self.order(epoch):
            rest = torch.cat([rest, piece])
            whole = len(rest) // self.batch_size * self.batch_size
            for batch in rest[:whole].view(-1, self.batch_size):
                if step == self.per_epoch:
                    return
                if step >= first:  # cloned: a worker would otherwise be sent the whole piece
                    yield BatchIndices(epoch, step, batch[self.local].clone(), self.local, self.batch_size)
                step += 1
            rest = rest[whole:]


class ValidationBatches:
    """A sampler of validation's global batches: all n samples, each once, in the same batches every time.

    Their number is n / batch_size, rounded, and their sizes differ by at most one: an anchor has as many negatives in
    each, as nearly as possible those of training, however many ranks share a batch. In the data's own order, which is
    often that of the classes, an anchor's negatives would be of its class.

    Args:
        places: (n,), all places in random order.
        batch_size: of training's global batch.
        rank, world: which part of each batch is this rank's; every rank has at least one sample of each, and every
            batch at least two: one alone has nothing to be compared with.
    """

    def __init__(self, places: Tensor, batch_size: int, rank: int, world: int):
        count = max(1, min(round(len(places) / batch_size), len(places) // max(2, world)))
        self.pieces, self.rank, self.world = places.tensor_split(count), rank, world

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[BatchIndices]:
        for step, piece in enumerate(self.pieces):
            local = share(len(piece), self.rank, self.world)
            yield BatchIndices(0, step, piece[local].clone(), local, len(piece))
