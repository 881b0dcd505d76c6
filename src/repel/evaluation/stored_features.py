"""Features that do not fit into memory: in a file, read in blocks onto the device that computes.

One rank writes, all ranks of the machine read. The file has no name from its first byte on: it is gone when nothing
holds it any more, also after a kill.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from repel.base.collectives import gather, rank

if TYPE_CHECKING:
    from repel.data.samples import Samples

__all__ = ["IN_MEMORY", "FeatureFiles", "Features", "StoredFeatures", "encode_stored", "join", "row_blocks", "rows_of"]

IN_MEMORY = 2.0e9  # bytes of a split's features, by default: evaluators make several copies of what is in memory
BLOCK = 2**26  # bytes in float32 of the rows that are read at a time
CHUNK = 16_000  # samples encoded between two writes: whole batches on any device, see features.encode
DTYPES = {"float32": np.float32, "float16": np.float16}


class _FileRows:
    """Rows (N, F) of an open file, mapped into memory for as long as it takes to copy some of them."""

    def __init__(self, file: BinaryIO, dtype: type, rows: int, width: int):
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
        self, pieces: Sequence[_FileRows | Tensor], device: torch.device, limit: float, places: Tensor | None = None
    ):
        self.pieces, self.device, self.limit, self.places = list(pieces), device, limit, places
        self.starts = list(accumulate(map(len, pieces), initial=0))
        rows = self.starts[-1] if places is None else len(places)
        self.shape = torch.Size([rows, pieces[0].shape[1]])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        """Rows as a tensor (*places.shape, F): of a slice, or of places of any shape, on any device."""
        if isinstance(places, slice):
            start, stop, step = places.indices(len(self))
            if step != 1 or self.places is not None:
                return self[torch.arange(start, stop, step)]
            found = [self._read(piece[max(0, start - first) : max(0, stop - first)])
                     for piece, first in zip(self.pieces, self.starts[:-1], strict=True)]  # fmt: skip
            return torch.cat([part for part in found if len(part)] or found[:1])
        at = places.flatten().cpu()
        at = at if self.places is None else self.places[at]
        rows = torch.empty(len(at), self.shape[1], device=self.device)
        for piece, first in zip(self.pieces, self.starts[:-1], strict=True):
            here = (at >= first) & (at < first + len(piece))
            if here.any():
                own = at[here] - first
                rows[here.to(self.device)] = self._read(
                    piece[own.to(piece.device) if isinstance(piece, Tensor) else own]
                )
        return rows.unflatten(0, places.shape)

    def _read(self, rows: Tensor) -> Tensor:
        return rows.to(self.device).float()

    @property
    def block(self) -> int:
        """Rows that are read at a time."""
        return max(1, BLOCK // (4 * self.shape[1]))

    def blocks(self, turn: int = 0, turns: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """(places, rows) of block `turn`, `turn` + `turns`, ..., each at most BLOCK bytes in float32."""
        for start in range(turn * self.block, len(self), turns * self.block):
            places = slice(start, min(start + self.block, len(self)))
            yield places, self[places]

    def subset(self, places: Tensor) -> "Tensor | StoredFeatures":
        """Rows at places (n,): a tensor, or where they take more than the limit, these rows of the same file."""
        if 4 * len(places) * self.shape[1] <= self.limit:
            return self[places]
        places = places.cpu() if self.places is None else self.places[places.cpu()]
        return StoredFeatures(self.pieces, self.device, self.limit, places)


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


def join(parts: Sequence[Features]) -> Features:
    """The rows of all, one after the other: stored features where any are.

    >>> join([torch.zeros(2, 3), torch.zeros(1, 3)]).shape
    torch.Size([3, 3])
    """
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    stored = next(part for part in parts if isinstance(part, StoredFeatures))
    pieces: list[_FileRows | Tensor] = []
    places: list[Tensor] = []
    for part in parts:
        rows = torch.arange(len(part)) if isinstance(part, Tensor) or part.places is None else part.places
        places.append(rows + sum(map(len, pieces)))
        pieces += [part] if isinstance(part, Tensor) else part.pieces
    whole = all(isinstance(part, Tensor) or part.places is None for part in parts)
    return StoredFeatures(pieces, stored.device, stored.limit, None if whole else torch.cat(places))


class FeatureFiles:
    """Where features of more than `limit` bytes in float32 go: files in a folder, which nobody sees.

    Args:
        folder: on a disk with room for the features, the same for all ranks, which are on one machine.
        limit: bytes of a split's features that stay in memory.
        dtype: of the files: float32, or float16, half as large.
        device: that the features are read onto.

    Raises:
        ValueError: another dtype.
    """

    def __init__(self, folder: Path, limit: float, dtype: str, device: torch.device):
        if dtype not in DTYPES:
            raise ValueError(f"evaluation.file_dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.folder, self.limit, self.dtype, self.device = folder, limit, dtype, device

    def create(self, rows: int, width: int) -> BinaryIO:
        """An empty file without a name that this rank writes to or reads from.

        Raises:
            ValueError: the disk has no room for rows x width.
        """
        path, size = self.folder / "features.tmp", rows * width * np.dtype(DTYPES[self.dtype]).itemsize
        if rank() == 0:
            path.touch()
        free = self._meet(shutil.disk_usage(self.folder).free)  # of rank 0, so that all decide alike
        if free >= size:
            file = path.open("r+b")
        self._meet()
        if rank() == 0:
            path.unlink()
        if free < size:
            raise ValueError(
                f"evaluation: the features of {rows:,} samples take {size / 1e9:,.1f} GB in {self.folder}, which has "
                f"{free / 1e9:,.1f} GB left; use evaluation.file_dtype=float16 or a smaller evaluation.bank"
            )
        return file

    def write(self, file: BinaryIO, rows: Tensor) -> None:
        """Append rows (n, F), on rank 0.

        Raises:
            ValueError: float16 cannot hold them.
        """
        values = rows.cpu().numpy().astype(DTYPES[self.dtype], copy=False)
        if self.dtype == "float16" and np.isinf(values).any():
            raise ValueError("evaluation.file_dtype=float16: features above 65,504 do not fit; use float32")
        if rank() == 0:
            file.write(np.ascontiguousarray(values).view(np.uint8).data)

    def open(self, file: BinaryIO, rows: int, width: int) -> StoredFeatures:
        """What was written, once all of it is."""
        file.flush()
        self._meet()
        return StoredFeatures([_FileRows(file, DTYPES[self.dtype], rows, width)], self.device, self.limit)

    def _meet(self, value: int = 0) -> int:
        """Waits for all ranks; the value of rank 0."""
        return int(gather(torch.tensor([value], device=self.device))[0])


def encode_stored(
    samples: "Samples", encode: Callable[["Samples"], tuple[Tensor, Tensor]], files: FeatureFiles | None
) -> tuple[Features, Tensor]:
    """`encode` of the samples: features (M, F) and the places (M,) that could be read; in a file where they are large.

    Of large sets CHUNK samples at a time are encoded, on all ranks, which changes no bit of a feature.
    """
    if files is None or not len(samples) or math.isinf(files.limit):
        return encode(samples)
    first, _ = encode(samples[torch.tensor([0])])
    width = first.shape[1]
    if first.is_sparse or 4 * len(samples) * width <= files.limit:
        return encode(samples)
    file, places = files.create(len(samples), width), []
    for part in torch.arange(len(samples)).split(CHUNK):
        x, good = encode(samples[part])
        files.write(file, x)
        places.append(part[good.cpu()])
    read = torch.cat(places)
    return files.open(file, len(read), width), read.to(files.device)
