"""The LightningDataModule for sets held in memory: raw uint8 batches in, augmented pairs on the device out."""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from repel import seeding
from repel.data.images import Images, Splits
from repel.data.pair import Pair
from repel.views.augment import Normalize, Views, rows


class Rows(NamedTuple):
    """One rank's part of a global batch: its counters, its samples, and where these stand in the global batch."""

    epoch: int
    step: int
    index: Tensor
    local: slice
    total: int


class RawBatch(NamedTuple):
    """Rows with their pixels (B, C, H, W) uint8 and labels (B,)."""

    rows: Rows
    pixels: Tensor
    labels: Tensor | None


class GlobalBatches:
    """A sampler of global batches that is a pure function of (seed, epoch): rank r takes the r-th slice of each.

    The last, incomplete global batch is left out: the loss compares the samples of a batch with one another, so all
    batches, on all ranks, have the same size.

    Args:
        n: samples.
        batch_size: of the global batch, a multiple of world.
        position: how many batches have been trained on so far; an epoch starts from there, so that a resumed run goes
            on in the middle of an epoch.
        per_epoch: batches in an epoch, at most n // batch_size.
        shuffle_seed: None keeps the order.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        rank: int,
        world: int,
        position: Callable[[], int],
        per_epoch: int,
        shuffle_seed: int | None,
    ):
        assert batch_size % world == 0, "config.check divides the batch over the ranks"
        self.n, self.batch_size, self.per_epoch = n, batch_size, per_epoch
        self.position, self.shuffle_seed = position, shuffle_seed
        local = batch_size // world
        self.local = slice(rank * local, (rank + 1) * local)

    def __len__(self) -> int:
        return self.n // self.batch_size  # without trainer.limit_train_batches, which Lightning applies itself

    def __iter__(self):
        # not a generator: the position is read now, before a worker asks for the first batch
        epoch, first = divmod(self.position(), self.per_epoch)
        order = torch.arange(self.n)
        if self.shuffle_seed is not None:
            order = torch.randperm(self.n, generator=seeding.generator(self.shuffle_seed, seeding.ORDER, epoch))
        batches = order[: self.per_epoch * self.batch_size].view(self.per_epoch, self.batch_size)
        return iter(
            [Rows(epoch, s, batches[s, self.local], self.local, self.batch_size) for s in range(first, self.per_epoch)]
        )


class BatchFetch(torch.utils.data.Dataset):
    """Fetches a whole batch by one indexing operation."""

    def __init__(self, images: Images):
        self.images = images

    def __getitem__(self, rows: Rows) -> RawBatch:
        batch = self.images[rows.index]
        return RawBatch(rows, batch.pixels, batch.labels)


class ImageData(LightningDataModule):
    """Train and validation pairs, and the plain images of every split for evaluation.

    Args:
        read: returns Splits.
        batch_size: the global batch, divided over the ranks.
        val_fraction: of the training images, held out for validation where the data has no validation split.
        test_fraction: likewise for the test split.
        split_seed: which images are held out; not the run's seed, so that runs with other seeds hold out the same.
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
        views: Views,
        normalize: Normalize,
        seed: int,
    ):
        super().__init__()
        for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 < fraction < 0.5:
                raise ValueError(f"data.{name} must be between 0 and 0.5, got {fraction}")
        self.read, self.batch_size, self.seed = read, batch_size, seed
        self.fractions, self.split_seed = (val_fraction, test_fraction), split_seed
        self.views, self.normalize = views, normalize
        self.splits: Splits | None = None
        self.fetched_at = perf_counter()

    def setup(self, stage: str | None = None) -> None:
        """Read the data, once; hold out what the data does not split itself."""
        if self.splits is None:
            self.splits = held_out(self.read(), *self.fractions, self.split_seed)

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

    def train_dataloader(self) -> DataLoader:
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        sampler = GlobalBatches(
            len(self.splits.train), self.batch_size, self.trainer.global_rank, self.trainer.world_size,
            position=lambda: progress.total.processed, per_epoch=self.batches_per_epoch(), shuffle_seed=self.seed,
        )  # fmt: skip
        return self.loader(self.splits.train, sampler)

    def val_dataloader(self) -> DataLoader:
        """Whole global batches of the validation split, in order; one smaller batch where the split is small."""
        n, world = len(self.splits.val), self.trainer.world_size
        size = min(self.batch_size, n // world * world)
        batches = n // size if size else 0
        sampler = GlobalBatches(
            n, size, self.trainer.global_rank, world, position=lambda: 0, per_epoch=batches, shuffle_seed=None
        )
        return self.loader(self.splits.val, sampler)

    def loader(self, images: Images, sampler: GlobalBatches) -> DataLoader:
        pin = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(BatchFetch(images), sampler=sampler, batch_size=None, collate_fn=as_is, pin_memory=pin)

    def transfer_batch_to_device(self, batch: RawBatch, device: torch.device, dataloader_idx: int) -> RawBatch:
        self.fetched_at = perf_counter()  # for speed/data_wait_fraction: from here on it is the device's work
        moved = [t if t is None else t.to(device, non_blocking=True) for t in (batch.pixels, batch.labels)]
        return RawBatch(batch.rows, *moved)

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Pair:
        """The views: drawn for the global batch, as a function of (seed, epoch, step), made for this rank's part."""
        stream = seeding.VIEWS if self.trainer.training else seeding.VALIDATION
        place = batch.rows
        params = self.views.draw(place.total, seeding.generator(self.seed, stream, place.epoch, place.step))
        views = self.views.apply(batch.pixels, rows(params, place.local))
        dtype = next(self.trainer.lightning_module.parameters()).dtype  # float64 under precision=64-true
        # validation samples' ids come after the training samples', so that no two samples share one
        ids = place.index + (0 if self.trainer.training else len(self.splits.train))
        return Pair(views.to(dtype), ids.to(views.device), batch.labels)


def as_is(batch):
    return batch


def held_out(splits: Splits, val_fraction: float, test_fraction: float, seed: int) -> Splits:
    """Splits with a test and a validation set, taken from train where missing, the same share of every class."""
    train, val, test = splits.train, splits.val, splits.test
    if test is None:
        train, test = split_off(train, test_fraction, seed, 0)
    if val is None:
        train, val = split_off(train, val_fraction, seed, 1)
    return Splits(train, test, val, splits.classes, splits.skipped)


def split_off(images: Images, fraction: float, seed: int, part: int) -> tuple[Images, Images]:
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
