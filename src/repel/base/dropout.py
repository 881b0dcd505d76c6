"""Dropout whose masks are a function of the sample's place in the global batch, so that they can be drawn again."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.hashing import GOLDEN, element_bits, hashed, signed

__all__ = [
    "FIRST_CATALOG",
    "FIRST_CROP",
    "FIRST_NEGATIVE",
    "CountedDropout",
    "DrawCounters",
    "NeedsCounters",
    "Packed",
    "counted_parts",
    "give_counters",
]

# numbers of views, far beyond those that a batch has
FIRST_CROP, FIRST_NEGATIVE, FIRST_CATALOG = 1 << 13, 1 << 14, 3 << 13
_POSITION_BITS, _VIEW_BIT = 16, 48  # a number of 64 bits: the view, the sample's place, the position in it


class DrawCounters(NamedTuple):
    """What the draws of one forward pass are a function of.

    key: of the run's seed, the epoch and the step, 63 bits; the same on all ranks.
    samples: B, of this rank. The pass has a multiple of B rows, view after view.
    start: place of this rank's first sample in the global batch.
    view: number of the pass's first view; FIRST_CROP, FIRST_NEGATIVE and FIRST_CATALOG where it shows crops, explicit
        negatives, or a part of the catalog, of which samples and start are then.
    """

    key: int
    samples: int
    start: int = 0
    view: int = 0


@runtime_checkable
class NeedsCounters(Protocol):
    """A part of a network that draws at random in training, from counters instead of torch's generator."""

    def on_pass(self, counters: DrawCounters | None, part: int) -> None:
        """Called before each forward pass of a training step.

        Args:
            counters: None: training is over, draws come from torch's generator.
            part: which of the network's drawing parts this is; no two draw the same.
        """


def counted_parts(module: nn.Module) -> list[NeedsCounters]:
    """The parts at any depth that draw from counters."""
    return [part for part in module.modules() if isinstance(part, NeedsCounters)]


def give_counters(parts: Sequence[NeedsCounters], counters: DrawCounters | None) -> None:
    for number, part in enumerate(parts):
        part.on_pass(counters, number)


class Packed(NamedTuple):
    """Which positions of (rows, positions, F) are kept in (T, F).

    places: (T,), their numbers, row after row.
    """

    places: Tensor
    rows: int
    positions: int

    def pack(self, x: Tensor) -> Tensor:
        """(rows, positions, F) -> (T, F)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        """(T, F) -> (rows, positions, F), zero elsewhere."""
        empty = x.new_zeros(self.rows * self.positions, x.shape[1])
        return empty.index_copy(0, self.places, x).unflatten(0, (self.rows, self.positions))


class CountedDropout(nn.Module):
    """Dropout (Srivastava et al. 2014, JMLR 15) that drops the same for any number of ranks, and again if asked to.

    Each element is kept with probability 1 - rate and then divided by it. Whether it is kept is a hash of (seed, epoch,
    step; which dropout of the network; view; place of the sample in the global batch; position; feature). So W ranks
    drop what one rank drops, a resumed run drops what an uninterrupted one drops, and a second pass over a batch what
    the first one dropped. How far a batch is padded changes nothing. `Contrastive` gives the counters; elsewhere, in
    one's own training loop, it is torch's dropout, or `on_pass` gives them.

    Several times as fast on a CPU as torch's dropout, and no generator's state is read or written.

    Args:
        rate: share of elements that are dropped, in [0, 1), to 16 bits. 0 returns the input as it is.
        option: what an error calls the rate.

    Shape: (R, ..., F) -> the same; R rows are views of B samples, v * B + b. At most 65,536 positions between. Or
    (T, F), some positions alone, where `packed` says which.

    Raises:
        ValueError: the rate is out of range.

    Example:
        >>> dropout, x = CountedDropout(0.5), torch.ones(4, 3, 8)
        >>> dropout.on_pass(DrawCounters(key=1, samples=4), part=0)
        >>> whole = dropout(x)
        >>> dropout.on_pass(DrawCounters(key=1, samples=2, start=2), part=0)
        >>> torch.equal(dropout(x[2:, :2]), whole[2:, :2])
        True
    """

    key: Tensor

    def __init__(self, rate: float, option: str = "encoder.dropout"):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"{option} must be at least 0 and below 1, got {rate}")
        self.rate, self.samples = rate, 0
        # a tensor, as a compiled network would be compiled again for each value of a number
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def extra_repr(self) -> str:
        return str(self.rate)

    def on_pass(self, counters: DrawCounters | None, part: int) -> None:
        if counters is None or not self.rate:
            self.samples = 0
            return
        places = (counters.view << _VIEW_BIT) + (counters.start << _POSITION_BITS)
        self.key.fill_(signed(counters.key + (part + 1) * GOLDEN + places, 64))
        self.samples = counters.samples

    def forward(self, x: Tensor, packed: Packed | None = None) -> Tensor:
        if not self.training or not self.rate:
            return x
        if not self.samples:
            return F.dropout(x, self.rate)
        kept = max(1, round((1 - self.rate) * 2**16))
        return x * (2**16 / kept) * self.mask(x, kept, packed)

    def mask(self, x: Tensor, kept: int, packed: Packed | None) -> Tensor:
        """Which elements of x are kept, of 2^16 so many."""
        features = x.shape[-1]
        rows, positions = (x.shape[0], x.shape[1:-1].numel()) if packed is None else (packed.rows, packed.positions)
        keys = _token_keys(self.key, rows, self.samples, positions, x.device)
        if packed is not None:
            keys = packed.pack(keys)
        bits = element_bits(keys, (features + 1) // 2)  # two elements share a hash of 32 bits
        return (bits.view(torch.int16)[..., :features] < kept - 2**15).view(x.shape)


def _token_keys(key: Tensor, rows: int, samples: int, positions: int, device: torch.device) -> Tensor:
    """(rows, positions, 2) int32, two hashes of each position of each row."""
    assert rows % samples == 0, f"{rows} rows are no whole number of views of {samples} samples"
    assert positions <= 1 << _POSITION_BITS, positions
    view, place, position = (torch.arange(n, device=device) for n in (rows // samples, samples, positions))
    x = key + (view << _VIEW_BIT)[:, None, None] + (place << _POSITION_BITS)[:, None] + position
    return hashed(x).view(rows, positions, 1).view(torch.int32)
