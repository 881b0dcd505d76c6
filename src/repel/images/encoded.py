"""Sets that are decoded batch by batch: files too large for memory, or records of shards.

Worker processes read, decode and crop; what is left of the views is made on the device. A crop is cut from the whole
picture, at its full resolution, and so sees more than one that is cut from a scaled copy.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repel.base.signals import ignore_in_worker
from repel.images.decode import File, decode, decode_crops, opened, reason, shown, upright_size
from repel.images.memory import BadImage
from repel.images.views import crop
from repel.images.views.views import Params, Views

GEOMETRY = ("area", "aspect", "position", "flip")  # what a worker needs of a view's parameters


def processes(workers: int | str) -> int:
    """How many workers data.workers means; auto: the cores, shared out among this machine's ranks."""
    if workers == "auto":
        return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if not isinstance(workers, int) or workers < 0:
        raise ValueError(f"data.workers must be auto or a whole number, at least 0, got {workers!r}")
    return workers


class Texts(Sequence):
    """Many strings in two arrays: a list of a million would be copied into every worker, object by object."""

    def __init__(self, texts: Sequence[str]):
        encoded = [os.fsencode(text) for text in texts]  # file names need not be valid UTF-8
        self.ends = np.cumsum([0, *map(len, encoded)])
        self.joined = b"".join(encoded)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.joined[self.ends[index] : self.ends[index + 1]])


class Source(Sequence):
    """Where encoded images come from: item i is its name and the file, a path or its contents."""

    def name(self, index: int) -> str:
        """The item's name, by which a table of labels knows it."""
        return self[index][0]

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """All places in random order, in pieces that are as large as can be afforded."""
        yield torch.randperm(len(self), generator=generator)


class Files(Source):
    """Paths below a folder; their names begin with a prefix, such as the split's folder."""

    def __init__(self, root: str, paths: Sequence[str], prefix: str = ""):
        self.root, self.paths, self.prefix = root, Texts(paths), prefix

    def name(self, index: int) -> str:
        return os.path.join(self.prefix, self.paths[index])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, File]:
        path = os.path.join(self.root, self.paths[index])
        return path, path


class Read(NamedTuple):
    """What came of a batch of places: where images were taken from, their crops, and what could not be read."""

    places: Tensor
    crops: list[Tensor]  # one (b, C, S, S) uint8 per view
    skipped: list[str]


@dataclass(frozen=True)
class Encoded:
    """A part of a source.

    Args:
        source: the images.
        labels: (N,) int64, -1 where unknown, or None.
        index: (N,) which of the source's items these are; None: all.
        size: side of the plain image, in pixels.
        channels: 1 or 3.
        skip: go on without files that cannot be read. A batch then takes the next one that can, so that all batches
            have the same size; evaluation leaves them out.
        workers: processes that read.
    """

    source: Source
    labels: Tensor | None
    index: Tensor | None
    size: int
    channels: int
    skip: bool
    workers: int

    def __len__(self) -> int:
        return len(self.source) if self.index is None else len(self.index)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def __getitem__(self, index: Tensor) -> "Encoded":
        index = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
        labels = None if self.labels is None else self.labels[index]
        return replace(self, index=index if self.index is None else self.index[index], labels=labels)

    @property
    def labelled(self) -> "Encoded":
        assert self.labels is not None, "asked for the labels of unlabelled images"
        known = self.labels >= 0
        return self if bool(known.all()) else self[known]

    @property
    def names(self) -> np.ndarray:
        """(N,), read anew each time: of shards, each record is opened for it."""
        index = range(len(self.source)) if self.index is None else self.index.tolist()
        return np.array([self.source.name(i) for i in index], dtype=object)

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        if self.index is None:
            yield from self.source.order(generator)
        else:
            yield torch.randperm(len(self), generator=generator)

    def open(self, place: int) -> tuple[str, File]:
        return self.source[place if self.index is None else int(self.index[place])]

    def picture_size(self, place: int) -> tuple[int, int]:
        """Height and width of the picture, of which the plain image is the scaled centre."""
        with opened(self.open(place)[1]) as image:
            return upright_size(image)

    def crops(self, places: Tensor, views: Views, params: Params) -> Read:
        """The crops that views of these params ask for, made from whole pictures."""
        sizes = [augmentation.size for augmentation in views.augmentations]
        taken, crops, skipped = places.tolist(), [[]] * len(places), []
        where = places if self.index is None else self.index[places]
        for row in where.argsort().tolist():  # in the source's order: a chunk of a shard is opened once
            draws = [{name: p[name][row : row + 1] for name in GEOMETRY} for p in params]
            read = partial(cut, draws=draws, sizes=sizes, channels=self.channels)
            for attempt in range(len(self)):
                taken[row] = (int(places[row]) + attempt) % len(self)
                made = self.tried(taken[row], read, skipped)
                if made is not None:
                    break
            else:
                raise BadImage(f"none of the {len(self)} images can be read, the first: {skipped[0]}")
            crops[row] = made
        stacked = [torch.from_numpy(np.stack(view)) for view in zip(*crops, strict=True)]
        return Read(torch.tensor(taken), stacked, skipped)

    def tried(
        self, place: int, read: Callable[[File], list[np.ndarray]], skipped: list[str]
    ) -> list[np.ndarray] | None:
        """What read makes of an image; None, and a line in skipped, where it cannot.

        Raises:
            BadImage: it cannot, and the user did not ask to go on.
        """
        name, file = self.open(place)
        try:
            return read(file)
        except Exception as error:  # a damaged file can make Pillow raise anything
            why = reason(error)
        if not self.skip:
            raise BadImage(
                f"cannot read the image {shown(name)} ({why}); remove it, or leave such files out by data.on_error=skip"
            )
        skipped.append(f"{shown(name)}: {why}")
        return None

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Evaluation's batches: pixels (b, C, S, S) uint8 at each of the places, and which could be read, (b,)."""
        for batch in worked(Plain(self), places, self.workers):
            if isinstance(batch, BadImage):
                raise batch
            yield batch


def cut(file: File, draws: Params, sizes: Sequence[int], channels: int) -> list[np.ndarray]:
    """The crops of one file that these draws, of one row each, ask for: (channels, S, S) uint8, one per view."""

    def boxes(height: int, width: int) -> list[list[float]]:
        return [crop.boxes(p["area"], p["aspect"], p["position"], height, width)[0].tolist() for p in draws]

    return decode_crops(file, boxes, sizes, [bool(p["flip"]) for p in draws], channels)


class Plain(Dataset):
    """The centre of each image, a batch at a time."""

    def __init__(self, images: Encoded):
        self.images = images

    def __getitem__(self, places: Tensor) -> tuple[Tensor, Tensor] | BadImage:
        images, pixels = self.images, []
        try:
            for place in places.tolist():
                pixels.append(images.tried(place, lambda f: [decode(f, images.size, images.channels)], []))
        except BadImage as error:
            return error  # raised here, it would come out as a traceback of the worker
        good = [p is not None for p in pixels]
        blank = np.zeros(images.shape, np.uint8)
        return torch.from_numpy(np.stack([blank if p is None else p[0] for p in pixels])), torch.tensor(good)


def worked(dataset: Dataset, sampler, workers: int, **options) -> DataLoader:
    """Items of the dataset in the sampler's order, made by worker processes."""
    common = {"batch_size": None, "collate_fn": as_is, "worker_init_fn": ignore_in_worker}
    return DataLoader(dataset, sampler=sampler, num_workers=workers, **common, **options)


def as_is(batch):
    return batch
