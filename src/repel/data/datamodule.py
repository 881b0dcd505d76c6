"""The LightningDataModule for images: raw uint8 batches in, augmented pairs on the device out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repel.base import seeding
from repel.data.labels import Table, of_classes
from repel.data.pair import Pair
from repel.data.sampler import GlobalBatches, Rows
from repel.images.encoded import Encoded, worked
from repel.images.memory import BadImage, Images, Splits
from repel.images.views.normalize import Normalize
from repel.images.views.views import Params, Views, rows

CACHE_SHARE = 0.25  # of a device's free memory, which data.device_cache=auto may take


class RawBatch(NamedTuple):
    """Rows with their images and labels (B,).

    pixels: (B, C, H, W) uint8; or every view's crops, a list of (B, C, S, S) uint8; or None where the device has them.
    skipped: files that could not be read.
    """

    rows: Rows
    pixels: Tensor | list[Tensor] | None
    labels: Tensor | None
    skipped: list[str]


class BatchFetch(Dataset):
    """Fetches a whole batch by one indexing operation."""

    def __init__(self, images: Images, pixels: bool):
        self.images, self.pixels = images, pixels

    def __getitem__(self, rows: Rows) -> RawBatch:
        pixels = self.images.pixels[rows.index] if self.pixels else None
        return RawBatch(rows, pixels, None if self.images.labels is None else self.images.labels[rows.index], [])


class CropFetch(Dataset):
    """Decodes a batch and cuts out the crops of its views, in a worker."""

    def __init__(self, images: Encoded, views: Views, seed: int, stream: int):
        self.images, self.views, self.seed, self.stream = images, views, seed, stream

    def __getitem__(self, place: Rows) -> RawBatch | BadImage:
        params = drawn(self.views, self.seed, self.stream, place)
        try:
            read = self.images.crops(place.index, self.views, rows(params, place.local))
        except BadImage as error:
            return error  # raised here, it would come out as a traceback of the worker
        labels = None if self.images.labels is None else self.images.labels[read.places]
        return RawBatch(place._replace(index=read.places), read.crops, labels, read.skipped)


class ImageData(LightningDataModule):
    """Train and validation pairs, and the plain images of every split for evaluation.

    Args:
        read: returns Splits.
        batch_size: the global batch, divided over the ranks.
        val_fraction: of the training images, held out for validation where the data has no validation split.
        test_fraction: likewise for the test split.
        tasks, labels: further labels to evaluate, see columns.py; without class folders, the first column of the table
            `labels` takes the classes' place.
        split_seed: which images are held out; not the run's seed, so that runs with other seeds hold out the same.
        device_cache: whether training images that are held in memory are held on the device; auto: on a GPU, where they
            take at most a quarter of its free memory.
        views: makes the views of a batch.
        normalize: makes evaluation's single plain view.
        seed: of the order and of the views' draws.
    """

    def __init__(
        self,
        read: Callable[[], Splits],
        batch_size: int,
        val_fraction: float,
        test_fraction: float,
        split_seed: int,
        tasks: dict[str, list],
        labels: str | None,
        device_cache: bool | str,
        views: Views,
        normalize: Normalize,
        seed: int,
    ):
        super().__init__()
        for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 < fraction < 0.5:
                raise ValueError(f"data.{name} must be between 0 and 0.5, got {fraction}")
        if device_cache not in (True, False, "auto"):
            raise ValueError(f"data.device_cache must be true, false or auto, got {device_cache!r}")
        self.read, self.batch_size, self.seed = read, batch_size, seed
        self.fractions, self.split_seed, self.device_cache = (val_fraction, test_fraction), split_seed, device_cache
        self.tasks, self.table = tasks, None if labels is None else Table(labels)
        self.first: str | None = None  # the table's column that took the classes' place
        self.views, self.normalize = views, normalize
        self.splits: Splits | None = None
        self.cache: Tensor | None = None
        self.skipped: set[str] = set()
        self.fetched_at = perf_counter()

    def setup(self, stage: str | None = None) -> None:
        """Read the data, once; hold out what the data does not split itself."""
        if self.splits is None:
            splits = self.read()
            if self.table is not None and splits.train.labels is None:
                splits = labelled_by(splits, self.table)
                self.first = next(iter(self.table.codes))  # it is the class now, no further task
            self.splits = held_out(splits, *self.fractions, self.split_seed)
            self.check_columns()

    def check_columns(self) -> None:
        """Raises ValueError where further labels cannot be used, before anything is trained on or measured."""
        if bad := {"class", "last", "z"} & {*self.tasks, *(self.table.codes if self.table else ())} - {self.first}:
            raise ValueError(f"data.tasks, data.labels: {min(bad)} is a name of the report's own; rename it")
        parts = [part for part in (self.splits.train, self.splits.val, self.splits.test) if part.labels is not None]
        found = [self.columns(part) for part in parts]
        listed = any((labels >= 0).any() for one in found for labels in one.values())
        if self.table is not None and self.first is None and not listed:
            name = self.splits.train.names[0]
            raise ValueError(f"data.labels={self.table.path} lists none of the images, which are named such as {name}")

    def columns(self, images: Images | Encoded) -> dict[str, Tensor]:
        """Name of each further task -> its labels (N,) of these images, -1 where unknown."""
        found = of_classes(self.tasks, self.splits.classes, images.labels)
        table = {} if self.table is None else self.table.of(images.names)
        return found | {name: labels for name, labels in table.items() if name != self.first}

    @property
    def labelled(self) -> bool:
        """Whether labels are known, so that evaluation can use them."""
        assert self.splits is not None, "setup() comes first"
        return all(part.labels is not None and len(part.labelled) for part in (self.splits.train, self.splits.val))

    def batches_per_epoch(self) -> int:
        """Training steps of one epoch, before gradient accumulation."""
        full = len(self.splits.train) // self.batch_size
        limit = self.trainer.limit_train_batches
        return min(full, limit) if isinstance(limit, int) else int(full * limit)

    def sizes(self) -> dict[str, int]:
        """What must be the same on all ranks."""
        train, val = self.splits.train, self.splits.val
        return {"training images": len(train), "validation images": len(val), "batches": self.batches_per_epoch()}

    def order(self, epoch: int):
        """The places of all training samples in an epoch's order, in pieces."""
        return self.splits.train.order(seeding.generator(self.seed, seeding.ORDER, epoch))

    def train_dataloader(self) -> DataLoader:
        progress, trainer, images = self.trainer.fit_loop.epoch_loop.batch_progress, self.trainer, self.splits.train
        sampler = GlobalBatches(
            self.order, len(images), self.batch_size, trainer.global_rank, trainer.world_size,
            position=lambda: progress.total.processed, per_epoch=self.batches_per_epoch(),
        )  # fmt: skip
        if self.cache is None and isinstance(images, Images) and self.fits(images.pixels):
            self.cache = images.pixels.to(trainer.strategy.root_device)
        return self.loader(images, sampler, seeding.VIEWS)

    def val_dataloader(self) -> DataLoader:
        """Whole global batches of the validation split, in order; one smaller batch where the split is small."""
        n, world = len(self.splits.val), self.trainer.world_size
        size = min(self.batch_size, n // world * world)
        sampler = GlobalBatches(
            lambda epoch: iter([torch.arange(n)]), n, size, self.trainer.global_rank, world,
            position=lambda: 0, per_epoch=n // size if size else 0,
        )  # fmt: skip
        return self.loader(self.splits.val, sampler, seeding.VALIDATION)

    def fits(self, pixels: Tensor) -> bool:
        """Whether the device is to hold the training images."""
        device = self.trainer.strategy.root_device
        if self.device_cache != "auto":
            return self.device_cache
        return device.type == "cuda" and pixels.nbytes <= CACHE_SHARE * torch.cuda.mem_get_info(device)[0]

    def loader(self, images: Images | Encoded, sampler: GlobalBatches, stream: int) -> DataLoader:
        pin = self.trainer.strategy.root_device.type == "cuda"
        if isinstance(images, Images):
            cached = stream == seeding.VIEWS and self.cache is not None
            return worked(BatchFetch(images, not cached), sampler, 0, pin_memory=pin)
        fetch = CropFetch(images, self.views, self.seed, stream)
        return worked(fetch, sampler, images.workers, pin_memory=pin, persistent_workers=images.workers > 0)

    def transfer_batch_to_device(
        self, batch: RawBatch | BadImage, device: torch.device, dataloader_idx: int
    ) -> RawBatch:
        if isinstance(batch, BadImage):
            raise batch
        self.fetched_at = perf_counter()  # for speed/data_wait_fraction: from here on it is the device's work
        self.note(batch.skipped)
        there = [t if t is None else t.to(device, non_blocking=True) for t in (batch.rows.index, batch.labels)]
        if batch.pixels is None:
            pixels = self.cache[there[0]]
        elif isinstance(batch.pixels, list):
            pixels = [crops.to(device, non_blocking=True) for crops in batch.pixels]
        else:
            pixels = batch.pixels.to(device, non_blocking=True)
        return RawBatch(batch.rows._replace(index=there[0]), pixels, there[1], [])

    def note(self, skipped: list[str]) -> None:
        """Write files that cannot be read into the run's skipped.txt, each once."""
        for line in skipped:
            if line not in self.skipped:
                self.skipped.add(line)
                with (Path(self.trainer.default_root_dir) / "skipped.txt").open("a") as file:
                    file.write(line + "\n")

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Pair:
        """The views: drawn for the global batch, made for this rank's part."""
        place, training = batch.rows, self.trainer.training
        params = drawn(self.views, self.seed, seeding.VIEWS if training else seeding.VALIDATION, place)
        made = self.views.apply(batch.pixels, rows(params, place.local))
        dtype = next(self.trainer.lightning_module.parameters()).dtype  # float64 under precision=64-true
        views, crops = (made[0].to(dtype), made[1].to(dtype)) if isinstance(made, list) else (made.to(dtype), None)
        # validation samples' ids come after the training samples', so that no two samples share one
        return Pair(views, place.index + (0 if training else len(self.splits.train)), batch.labels, crops)

    def preview(self, n: int) -> tuple[Tensor, list[tuple[int, int]], list[Tensor], Params]:
        """The first n samples of the first training batch, on one rank or several.

        Returns:
            Plain images (n, C, H, W) uint8; height and width of the pictures; each view (n, C, S, S); their draws.
        """
        n = min(n, self.batch_size, len(self.splits.train))
        index = next(iter(self.order(0)))[:n]
        place = Rows(0, 0, index, slice(0, n), self.batch_size)
        params = rows(drawn(self.views, self.seed, seeding.VIEWS, place), place.local)
        images = self.splits.train
        if isinstance(images, Encoded):
            index, pixels, _ = images.crops(index, self.views, params)
            sizes = [images.picture_size(place) for place in index.tolist()]
        else:
            pixels, sizes = images.pixels[index], [images.shape[1:]] * n
        made = self.views.apply(pixels, params)
        views = [view for part in (made if isinstance(made, list) else [made]) for view in part]
        return next(iter(images.plain([index])))[0], sizes, views, params


def drawn(views: Views, seed: int, stream: int, place: Rows) -> Params:
    """The views' parameters for a whole global batch, as a function of (seed, epoch, step)."""
    return views.draw(place.total, seeding.generator(seed, stream, place.epoch, place.step))


def held_out(splits: Splits, val_fraction: float, test_fraction: float, seed: int) -> Splits:
    """Splits with a test and a validation set, taken from train where missing, the same share of every class."""
    train, val, test = splits.train, splits.val, splits.test
    if test is None:
        train, test = split_off(train, test_fraction, seed, 0)
    if val is None:
        train, val = split_off(train, val_fraction, seed, 1)
    return Splits(train, test, val, splits.classes, splits.skipped)


def labelled_by(splits: Splits, table: Table) -> Splits:
    """Splits of unlabelled images, labelled by the first column of a table."""
    column, classes = next(iter(table.classes.items()))
    if (table.of(splits.train.names)[column] < 0).all():
        name = splits.train.names[0]
        raise ValueError(f"data.labels={table.path} lists none of the images, which are named such as {name}")
    parts = {
        name: part if part is None else replace(part, labels=table.of(part.names)[column])
        for name, part in (("train", splits.train), ("test", splits.test), ("val", splits.val))
    }
    return replace(splits, **parts, classes=classes)


def split_off(
    images: Images | Encoded, fraction: float, seed: int, part: int
) -> tuple[Images | Encoded, Images | Encoded]:
    """(rest, held out), the same share of every class. Images without a label stay in the rest, unless none has one."""
    labels = torch.zeros(len(images), dtype=torch.int64) if images.labels is None else images.labels
    shuffled = torch.randperm(len(images), generator=seeding.generator(seed, seeding.SPLIT, part))
    shuffled = shuffled[labels[shuffled] >= 0]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # evenly spaced along the classes in a row: fair also to classes so small that a share of each would round to none
    count = max(1, round(len(by_class) * fraction))
    places = ((torch.arange(count) + 0.5) * len(by_class) / count).long()
    out = torch.zeros(len(images), dtype=torch.bool)
    out[by_class[places]] = True
    return images[~out], images[out]
