"""Samples that are held in memory as one tensor."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from repel.data.identity import name_keys
from repel.data.samples import DataInfo, Fetched
from repel.data.views import ViewDraws

__all__ = ["TensorSamples"]


@dataclass(frozen=True)
class TensorSamples:
    """N samples in one tensor. A subclass may add fields; its tensors and arrays have a row for each sample, too.

    x: (N, ...), such as pixels, or token ids.
    labels: (N,) int64, -1 where unknown, or None.
    names: (N,), or None.
    """

    x: Tensor
    labels: Tensor | None = None
    names: np.ndarray | None = None

    @property
    def workers(self) -> int:
        return 0  # a batch is one indexing operation

    @property
    def description(self) -> str:
        return "samples"

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Self:
        rows: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                rows[name] = value[index]
            elif isinstance(value, np.ndarray):
                rows[name] = value[index if isinstance(index, slice) else index.numpy()]
        return replace(self, **rows)

    @property
    def labelled(self) -> Self:
        """The samples whose label is known."""
        assert self.labels is not None, "asked for the labels of unlabeled samples"
        known = self.labels >= 0
        return self if bool(known.all()) else self[known]

    def keys(self) -> Tensor | None:
        return None if self.names is None else name_keys(self.names)

    def with_labels(self, labels: Tensor | None) -> Self:
        return replace(self, labels=labels)

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        yield torch.randperm(len(self), generator=generator)

    def fetch(self, places: Tensor, draws: ViewDraws) -> Fetched:
        return Fetched(places, self.x[places.to(self.x.device, non_blocking=True)])

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Any, Tensor]]:
        """Rows of x at each of the places, and which could be read, (b,): all."""
        for place in places:
            yield self.x[place], torch.ones(len(place), dtype=torch.bool)

    def info(self) -> DataInfo:
        return DataInfo(len(self))

    @property
    def nbytes(self) -> int:
        """Of what `to` moves."""
        return sum(value.nbytes for value in self._tensors().values())

    def to(self, device: torch.device) -> Self:
        """The same samples with what they fetch on the device; labels stay where they are."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "labels"}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}
