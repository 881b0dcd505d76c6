"""Features that do not fit into memory: in a file, read in blocks onto the device that computes."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = ["Features", "FileRows", "StoredFeatures", "join", "numbered_blocks", "row_blocks", "rows_of"]

BLOCK, ROWS = 2**26, 2**15  # bytes in float32, and rows, that are read at a time at most


class FileRows:
    """Rows (N, F) of an open file, mapped into memory for as long as it takes to copy some of them."""

    def __init__(self, file: BinaryIO, dtype: str, rows: int, width: int):
        self.file, self.dtype, self.shape = file, np.dtype(dtype), (rows, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: slice | Tensor) -> Tensor:
        """In the precision of the file, on the CPU."""
        if not len(self) or (isinstance(places, slice) and places.stop <= places.start):  # nothing cannot be mapped
            return torch.empty(0, self.shape[1])
        if isinstance(places, Tensor):
            mapped = np.memmap(self.file, self.dtype, "r", shape=self.shape)
            return torch.from_numpy(mapped[places.numpy()])  # a copy
        start, stop, _ = places.indices(len(self))
        shape = stop - start, self.shape[1]
        offset = start * self.shape[1] * self.dtype.itemsize
        return torch.from_numpy(np.array(np.memmap(self.file, self.dtype, "r", offset, shape)))


class StoredFeatures:
    """Features (N, F), float32 on `device` wherever they are read: in blocks, or some rows as a tensor.

    Args:
        pieces: what holds the rows, one piece after the other.
        device: to read onto.
        limit: bytes up to which `subset` returns a tensor.
        places: (N,) of the pieces' rows, on the CPU; None: all.

    Example:
        >>> x = StoredFeatures([torch.eye(2), torch.ones(1, 2)], torch.device("cpu"), limit=0)
        >>> x.shape, x[torch.tensor([2, 0])]
        (torch.Size([3, 2]), tensor([[1., 1.],
                [1., 0.]]))
    """

    is_sparse, dtype = False, torch.float32

    def __init__(
        self, pieces: Sequence[FileRows | Tensor], device: torch.device, limit: float, places: Tensor | None = None
    ):
        self.pieces, self.device, self.limit, self.places = list(pieces), device, limit, places
        self.starts = list(accumulate(map(len, pieces), initial=0))
        rows = self.starts[-1] if places is None else len(places)
        self.shape = torch.Size([rows, pieces[0].shape[1]])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        """Rows as a tensor (*places.shape, F): of a slice, of places of any shape, or of a mask (N,), on any device.

        Raises:
            IndexError: there are not so many rows.
        """
        if isinstance(places, slice):
            start, stop, step = places.indices(len(self))
            if step != 1 or self.places is not None:
                return self[torch.arange(start, stop, step)]
            found = [self._read(piece[max(0, start - first) : max(0, stop - first)])
                     for piece, first in zip(self.pieces, self.starts[:-1], strict=True)]  # fmt: skip
            return torch.cat([part for part in found if len(part)] or found[:1])
        places = self._numbers(places)
        at = places.flatten()
        rows = torch.empty(len(at), self.shape[1], device=self.device)
        for piece, first in zip(self.pieces, self.starts[:-1], strict=True):
            here = (at >= first) & (at < first + len(piece))
            if here.any():
                own = at[here] - first
                rows[here.to(self.device)] = self._read(
                    piece[own.to(piece.device) if isinstance(piece, Tensor) else own]
                )
        return rows.view(*places.shape, self.shape[1])

    def _numbers(self, places: Tensor) -> Tensor:
        """Of the pieces' rows, of these places or of a mask."""
        return (torch.arange(len(self)) if self.places is None else self.places)[places.cpu()]

    def _read(self, rows: Tensor) -> Tensor:
        return rows.to(self.device).float()

    @property
    def block(self) -> int:
        """Rows that are read at a time."""
        return max(1, min(BLOCK // (4 * self.shape[1]), ROWS))

    def blocks(self, turn: int = 0, turns: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """(places, rows) of block `turn`, `turn` + `turns`, ..., each at most BLOCK bytes in float32."""
        for start in range(turn * self.block, len(self), turns * self.block):
            places = slice(start, min(start + self.block, len(self)))
            yield places, self[places]

    def index_select(self, dimension: int, places: Tensor) -> "Tensor | StoredFeatures":
        """As torch's, of rows."""
        assert dimension == 0, "features are rows"
        return self.subset(places)

    def subset(self, places: Tensor) -> "Tensor | StoredFeatures":
        """Rows at places (n,) or of a mask: a tensor, or if larger than the limit, these rows of the same file."""
        numbers = self._numbers(places)
        if 4 * len(numbers) * self.shape[1] <= self.limit:
            return self[places]
        return StoredFeatures(self.pieces, self.device, self.limit, numbers)


Features: TypeAlias = Tensor | StoredFeatures


def rows_of(x: Features, places: Tensor) -> Features:
    """The rows (n, F) of features x (N, F): of stored features, stored ones where they take more than the limit."""
    return x.subset(places) if isinstance(x, StoredFeatures) else x[places]


def row_blocks(x: Features) -> Iterator[Tensor]:
    """All rows in their order: of stored features in blocks, of a tensor at once."""
    if isinstance(x, StoredFeatures):
        yield from (rows for _, rows in x.blocks())
    else:
        yield x


def numbered_blocks(x: Features) -> Iterator[tuple[int, Tensor]]:
    """The same, each with the place of its first row."""
    start = 0
    for rows in row_blocks(x):
        yield start, rows
        start += len(rows)


def join(parts: Sequence[Features]) -> Features:
    """The rows of all, one after the other: stored features where any are.

    >>> join([torch.zeros(2, 3), torch.zeros(1, 3)]).shape
    torch.Size([3, 3])
    """
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    stored = next(part for part in parts if isinstance(part, StoredFeatures))
    pieces: list[FileRows | Tensor] = []
    places: list[Tensor] = []
    for part in parts:
        rows = torch.arange(len(part)) if isinstance(part, Tensor) or part.places is None else part.places
        places.append(rows + sum(map(len, pieces)))
        pieces += [part] if isinstance(part, Tensor) else part.pieces
    whole = all(isinstance(part, Tensor) or part.places is None for part in parts)
    return StoredFeatures(pieces, stored.device, stored.limit, None if whole else torch.cat(places))
