"""Where encoded images come from: files below a folder, or anything else that opens its items by number."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from repel.base.cores import cores_per_rank
from repel.data.identity import name_keys
from repel.images.decode import File

__all__ = ["Files", "PackedStrings", "Source", "worker_count"]


def worker_count(workers: int | str) -> int:
    """How many workers data.workers means; auto: the cores it may use, shared out among this machine's ranks."""
    if workers == "auto":
        return cores_per_rank()
    if not isinstance(workers, int) or workers < 0:
        raise ValueError(f"data.workers must be auto or a whole number, at least 0, got {workers!r}")
    return workers


class PackedStrings:
    """Many strings in two arrays: a list of a million would be copied into every worker, object by object."""

    def __init__(self, texts: Sequence[str]):
        encoded = [os.fsencode(text) for text in texts]  # file names need not be valid UTF-8
        self.ends = np.cumsum([0, *map(len, encoded)])
        self.joined = b"".join(encoded)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.joined[self.ends[index] : self.ends[index + 1]])


class Source(ABC):
    """Encoded images: item i is its name and the file, a path or its contents."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[str, File]: ...

    def name(self, index: int) -> str:
        """The item's name, by which a table of labels knows it."""
        return self[index][0]

    def keys(self, index: Sequence[int]) -> Tensor | None:
        """(len(index),) int64, which items these are: hashes of their names; None where names are slow to read."""
        return name_keys(self.name(i) for i in index)

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """All places in random order, in pieces that are as large as can be afforded."""
        yield torch.randperm(len(self), generator=generator)


class Files(Source):
    """Paths below a folder; their names begin with a prefix, such as the split's folder."""

    def __init__(self, root: str, paths: Sequence[str], prefix: str = ""):
        self.root, self.paths, self.prefix = root, PackedStrings(paths), prefix

    def name(self, index: int) -> str:
        return os.path.join(self.prefix, self.paths[index])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, File]:
        path = os.path.join(self.root, self.paths[index])
        return path, path
