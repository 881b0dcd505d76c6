"""Sets larger than memory or than one machine's disk: litdata's shards, read at random places.

litdata (Lightning's own) rather than webdataset: a tar can only be read from front to back, so its order depends on
buffers and workers; litdata finds any record of any chunk, here, or on S3 and the like, so that the order stays what
it is everywhere else, a function of (seed, epoch). `repel pack-shards` writes them.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repel.base.installation import install_extra
from repel.data.samples import Splits
from repel.images.decode import File, GrayRange, check_gray_range
from repel.images.encoded import Encoded
from repel.images.shapes import Size
from repel.images.sources import Source, worker_count

__all__ = ["Shards", "stream"]

# of a record; other types may be pickled, which runs code, or, as names of files, be opened
FORMAT = {"image": "bytes", "label": "int", "name": "bytes"}


def stream(
    root: str,
    size: Size,
    channels: int,
    on_error: str,
    workers: int | str,
    shuffle_chunks: int,
    gray_range: GrayRange | None = None,
) -> Splits:
    """Read ROOT/train, ROOT/val and ROOT/test as `repel pack-shards` writes them.

    Args:
        root: the folder with the shards.
        size: of the plain image, in pixels: a square's side, or height and width.
        channels: 3 for RGB, 1 for gray.
        on_error: what to do with an image that cannot be read: `raise`, or `skip` it and list it.
        workers: processes that read, or auto.
        shuffle_chunks: how many chunks are shuffled together; memory grows with it.
        gray_range: the values of gray images of more than 8 bits that become black and white; None: 0 and 65535.
    """
    gray_range = check_gray_range(gray_range)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"data.on_error must be raise or skip, got {on_error!r}")
    if channels not in (1, 3):
        raise ValueError(f"data.channels must be 1 or 3, got {channels}")
    if shuffle_chunks < 1:
        raise ValueError(f"data.shuffle_chunks must be at least 1, got {shuffle_chunks}")
    folder = Path(root).expanduser()
    if not (folder / "classes.json").is_file():
        raise ValueError(f"data.root={root} has no shards (no classes.json); make them: repel pack-shards DIR SHARDS")
    classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))

    def part(name: str) -> Encoded:
        labels = None
        if classes:
            labels = torch.from_numpy(np.load(folder / name / "labels.npy"))
        source = Shards(str(folder / name), shuffle_chunks)
        images = Encoded(source, labels, None, size, channels, on_error == "skip", worker_count(workers), gray_range)
        images.check_readable(name)
        return images

    return Splits(part("train"), part("test"), part("val"), classes)


class Shards(Source):
    """A folder of litdata's chunks. Opened anew in every process, as readers cannot be shared.

    Args:
        folder: with index.json.
        shuffle_chunks: chunks that are shuffled together.

    Raises:
        ValueError: litdata is missing, or these are not shards of images.
    """

    def __init__(self, folder: str, shuffle_chunks: int):
        try:
            import litdata  # noqa: F401
        except ImportError as error:
            raise ValueError(f"data=stream needs litdata: {install_extra('stream')}") from error
        try:
            index = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
            sizes, types = [chunk["chunk_size"] for chunk in index["chunks"]], index["config"]["types"]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder} holds no shards ({error}); make them: repel pack-shards DIR SHARDS") from error
        if types != FORMAT:
            raise ValueError(f"{folder}: records must be {FORMAT}, these are {types}")
        self.folder, self.shuffle_chunks = folder, shuffle_chunks
        self.ends = np.cumsum([0, *sizes])
        self.process = 0
        self.reader: Any = None

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> tuple[str, File]:
        if self.process != os.getpid():
            from litdata import StreamingDataset

            logging.getLogger("litdata").setLevel(logging.WARNING)  # it tells how it reads, each time
            self.process, self.reader = os.getpid(), StreamingDataset(self.folder, batch_decode=False)
        record = self.reader[index]
        return os.fsdecode(bytes(record["name"])), bytes(record["image"])

    def keys(self, index: Sequence[int]) -> Tensor | None:
        """As `repel pack-shards` has written them, of the names before packing; shards of before that have none."""
        path = Path(self.folder) / "keys.npy"
        return torch.from_numpy(np.load(path))[torch.as_tensor(index)] if path.is_file() else None

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Chunks in random order; of as many as are shuffled together, the records in random order."""
        for chunks in torch.randperm(len(self.ends) - 1, generator=generator).split(self.shuffle_chunks):
            places = torch.cat([torch.arange(self.ends[chunk], self.ends[chunk + 1]) for chunk in chunks.tolist()])
            yield places[torch.randperm(len(places), generator=generator)]
