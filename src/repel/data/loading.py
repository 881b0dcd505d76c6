"""Batches fetched by the training process or by workers."""

import multiprocessing
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repel.base.signals import follow_parent
from repel.data.sampler import BatchIndices
from repel.data.samples import Fetched, Samples, UnreadableSample
from repel.data.views import ViewDraws, Viewed

__all__ = ["BatchFetch", "RawBatch", "make_loader"]


class RawBatch(NamedTuple):
    """A batch before its views are made.

    indices: whose places are those of the samples that were fetched.
    labels: (B,) or None.
    fetched: None where the device holds the samples.
    viewed: None where the views are not made yet.
    """

    indices: BatchIndices
    labels: Tensor | None
    fetched: Fetched | None
    viewed: Viewed | None = None


class BatchFetch(Dataset):
    """Fetches a whole batch at once.

    Args:
        samples: from which.
        views, seed, stream: what is made of the batch, see ViewDraws.
        on_device: the device holds the samples; only their labels are fetched.
    """

    def __init__(self, samples: Samples, views: Any, seed: int, stream: int, on_device: bool = False):
        self.samples, self.views, self.seed, self.stream, self.on_device = samples, views, seed, stream, on_device

    def __getitem__(self, indices: BatchIndices) -> RawBatch | UnreadableSample:
        fetched = None
        if not self.on_device:
            try:
                fetched = self.samples.fetch(indices.places, ViewDraws(self.views, self.seed, self.stream, indices))
            except UnreadableSample as error:
                return error  # raised here, it would come out as a traceback of the worker
            indices = indices._replace(places=fetched.places)
        labels = self.samples.labels
        return RawBatch(indices, None if labels is None else labels[indices.places], fetched)


def make_loader(
    dataset: Dataset, sampler: Iterable, workers: int, pin_memory: bool = False, keep_workers: bool = False
) -> DataLoader:
    """Items of the dataset in the sampler's order: each is a whole batch, `dataset[element of the sampler]`.

    Args:
        workers: processes that make them; 0: this one.
        keep_workers: from one epoch to the next.
    """
    if workers:
        _import_once(type(dataset).__module__)
    return DataLoader(
        dataset,
        sampler=sampler,
        num_workers=workers,
        batch_size=None,
        collate_fn=_unchanged,
        worker_init_fn=follow_parent,
        pin_memory=pin_memory,
        persistent_workers=keep_workers and workers > 0,
    )


def _import_once(module: str) -> None:
    """Where workers start by forkserver, as from Python 3.14 on, let its server import torch and the dataset's module.

    Else each worker imports them anew, seconds of work, for every pass over the data. A server that runs already, as
    after run_parallel, stays as it is.
    """
    if multiprocessing.get_start_method() == "forkserver":
        multiprocessing.set_forkserver_preload(["__main__", module, "torch"])


def _unchanged(batch: Any) -> Any:
    return batch
