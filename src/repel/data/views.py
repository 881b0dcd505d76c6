"""Views of a batch, whatever the samples are: parameters drawn first, then applied on the device.

So a draw can be logged, replayed, tested, and cut into the slices of several ranks: a rank draws for the whole global
batch and applies its own slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from repel.base import seeding
from repel.data.pair import ViewBatch
from repel.data.sampler import BatchIndices

__all__ = ["BringsNegatives", "Compilable", "Params", "ViewDraws", "Viewed", "Views", "slice_params"]

Params = list[dict[str, Tensor]]  # of each view the drawn parameters, each of first dimension n


class Viewed(NamedTuple):
    """Views with crops or explicit negatives, see data.pair.Pair.

    views (V, B, ...), crops (L, B, ...), anchors only, and negatives (M, B, ...), candidates only; None without.
    catalog (E, ...), all items there are, of integers, and catalog_ids (E,), see data.pair.Pair.
    ids (V, B) and negative_ids (M, B): the entities that these show, where the views decide it; None: see Fetched.

    >>> views, crops, *_ = Viewed(torch.zeros(2, 4, 1, 8, 8), crops=torch.zeros(6, 4, 1, 4, 4))
    >>> crops.shape
    torch.Size([6, 4, 1, 4, 4])
    """

    views: ViewBatch
    crops: Tensor | None = None
    negatives: ViewBatch | None = None
    ids: Tensor | None = None
    negative_ids: Tensor | None = None
    catalog: Tensor | None = None
    catalog_ids: Tensor | None = None


class Views(Protocol):
    """Makes the views of a batch."""

    def draw(self, n: int, generator: torch.Generator) -> Params:
        """The parameters for n samples, on the CPU: an entry for each view and crop."""

    def apply(self, x: Any, params: Params) -> ViewBatch | Viewed:
        """The views (V, B, ...) of samples as `Samples.fetch` gives them, on their device."""


@runtime_checkable
class BringsNegatives(Protocol):
    """Views that bring explicit negatives of their own.

    negatives: for each sample so many.
    """

    negatives: int


@runtime_checkable
class Compilable(Protocol):
    """Views that torch.compile can make, with the same values within rounding."""

    def compile_views(self) -> str:
        """Have it make them from now on. Returns why not, in words; empty: it does."""


@dataclass(frozen=True)
class ViewDraws:
    """The views of one rank's part of a global batch: their draws are a function of (seed, stream, epoch, step)."""

    views: Any  # Views; a modality's own samples and views may agree on more than the protocol
    seed: int
    stream: int
    indices: BatchIndices

    def params(self) -> Params:
        """Drawn for the global batch, cut to this rank's part."""
        generator = seeding.generator(self.seed, self.stream, self.indices.epoch, self.indices.step)
        return slice_params(self.views.draw(self.indices.total, generator), self.indices.local)


def slice_params(params: Sequence[dict[str, Tensor]], part: slice) -> Params:
    """The parameters of some of the samples: what one rank applies of the global batch's draw.

    Args:
        params: of each view the drawn parameters, tensors (n, ...), as `draw(n, generator)` gives them.
        part: which of the n samples.

    Returns:
        The same of those samples alone; nothing is copied.

    >>> slice_params([{"angle": torch.arange(4)}], slice(2, 4))
    [{'angle': tensor([2, 3])}]
    """
    return [{name: value[part] for name, value in view.items()} for view in params]
