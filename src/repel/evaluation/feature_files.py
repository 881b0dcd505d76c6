"""Files of features that do not fit into memory.

One rank writes, all ranks of the machine read. A file has no name from its first byte on: it is gone when nothing
holds it any more, also after a kill.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from repel.base.collectives import gather, rank
from repel.evaluation.stored_features import Features, FileRows, StoredFeatures

if TYPE_CHECKING:
    from repel.data.samples import Samples

__all__ = ["IN_MEMORY", "FeatureFiles", "can_measure", "encode_stored"]

IN_MEMORY = 2.0e9  # bytes of a split's features, by default: evaluators make several copies of what is in memory
CHUNK = 16_000  # samples encoded between two writes: whole batches on any device, see features.encode
DTYPES = ("float32", "float16")


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
        path, size = self.folder / "features.tmp", rows * width * np.dtype(self.dtype).itemsize
        if rank() == 0:
            path.touch()
        free = self._meet(shutil.disk_usage(self.folder).free)  # of rank 0, so that all decide alike
        if free >= size:
            file = path.open("r+b")
        self._meet()
        if rank() == 0:
            path.unlink()
        if free < size:
            smaller = "" if self.dtype == "float16" else "use evaluation.file_dtype=float16 or "
            raise ValueError(
                f"evaluation: the features of {rows:,} samples take {size / 1e9:,.1f} GB in {self.folder}, which has "
                f"{free / 1e9:,.1f} GB left; {smaller}make room there"
            )
        return file

    def write(self, file: BinaryIO, rows: Tensor) -> None:
        """Append rows (n, F), on rank 0.

        Raises:
            ValueError: float16 cannot hold them, or the disk.
        """
        values = rows.to(getattr(torch, self.dtype)).cpu()
        if self.dtype == "float16" and bool(values.isinf().any()):
            raise ValueError("evaluation.file_dtype=float16: features above 65,504 do not fit; use float32")
        if rank() == 0:
            try:
                file.write(values.contiguous().numpy().view(np.uint8).data)
            except OSError as error:
                raise ValueError(f"evaluation: writing features to {self.folder}: {error.strerror}") from error

    def open(self, file: BinaryIO, rows: int, width: int) -> StoredFeatures:
        """What was written, once all of it is."""
        file.flush()
        self._meet()
        return StoredFeatures([FileRows(file, self.dtype, rows, width)], self.device, self.limit)

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
    few = len(samples) <= CHUNK  # else one sample says how many features there are
    x, good = encode(samples if few else samples[torch.tensor([0])])
    width = x.shape[1]
    if x.is_sparse or 4 * len(samples) * width <= files.limit:
        return (x, good) if few else encode(samples)
    file, places = files.create(len(samples), width), []
    for part in torch.arange(len(samples)).split(CHUNK):
        if not few:
            x, good = encode(samples[part])
        files.write(file, x)
        places.append(part[good.cpu()])
    read = torch.cat(places)
    return files.open(file, len(read), width), read.to(files.device)


def can_measure(name: str, takes_stored: bool, features: Sequence[Features]) -> bool:
    """Whether an evaluator takes these features, all in memory or not; a line says where it does not."""
    if takes_stored or not any(isinstance(x, StoredFeatures) for x in features):
        return True
    if rank() == 0:
        print(f"{name:8} left out: it takes features in memory alone (takes_stored), and these are larger than "
              "evaluation.memory; set it higher, or a smaller evaluation.bank", flush=True)  # fmt: skip
    return False
