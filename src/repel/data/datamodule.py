"""From samples to pairs: one LightningDataModule for every modality."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from zlib import crc32

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from repel.base import seeding
from repel.base.cores import cores_per_step
from repel.data.ahead import Awaited, MadeAhead
from repel.data.labeled import LabeledSplits
from repel.data.labels import Table
from repel.data.loading import BatchFetch, RawBatch, make_loader
from repel.data.memory import TensorSamples
from repel.data.pair import Pair, to_float_dtype
from repel.data.sampler import BatchIndices, GlobalBatches, ValidationBatches
from repel.data.samples import DataInfo, Samples, Splits, Transform, UnreadableSample
from repel.data.views import BringsNegatives, ViewDraws, Viewed, Views

__all__ = ["PairData", "pair_data"]

CACHE_SHARE = 0.25  # of a device's free memory, which data.device_cache=auto may take


class PairData(LabeledSplits, LightningDataModule):
    """Training and validation pairs, and the plain samples of every split for evaluation.

    Args:
        read: returns Splits.
        batch_size: the global batch, divided over the ranks.
        val_fraction: of the training samples, held out for validation where the data has no validation split.
        test_fraction: likewise for the test split.
        tasks, labels: further labels to evaluate, see labels.py; for samples without labels, the first column of the
            table `labels` becomes their class.
        split_seed: which samples are held out; not the run's seed, so that runs with other seeds hold out the same.
        device_cache: whether training samples that are held in memory are held on the device; auto: on a GPU, where
            they take at most a quarter of its free memory.
        views: makes the views of a batch.
        normalize: makes evaluation's single plain view of a batch, an encoder's input; None: it is one.
        seed: of the order and of the views' draws.
        prepare: samples as read -> as used, for each split; None: as read.
        split_by: name or place, by which samples are held out, see splits.py.
        labels_encoding, label_columns: of the table, see labels.Table.
        transform: is learned from the training samples and then applied to all, such as a tokenizer.
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
        normalize: Callable[[Any], Any] | None,
        seed: int,
        prepare: Callable[[Samples], Samples] | None = None,
        split_by: str = "place",
        labels_encoding: str | None = None,
        label_columns: Sequence[str] | None = None,
        transform: Transform | None = None,
    ):
        LightningDataModule.__init__(self)
        table = None if labels is None else Table(labels, labels_encoding, label_columns)
        fractions = val_fraction, test_fraction
        LabeledSplits.__init__(self, read, prepare, *fractions, split_seed, split_by, tasks, table, transform)
        if device_cache not in (True, False, "auto"):
            raise ValueError(f"data.device_cache must be true, false or auto, got {device_cache!r}")
        self.batch_size, self.seed, self.device_cache = batch_size, seed, device_cache
        self.views, self.normalize = views, normalize or _as_it_is
        self.repeats_batches = False  # those of the first epoch in every epoch, see trainer.overfit_batches
        self.cache: TensorSamples | None = None  # the training samples, on the device
        self.skipped: set[str] = set()
        self.fetched_at = perf_counter()

    @property
    def active_trainer(self) -> Trainer:
        assert self.trainer is not None, "without a trainer there are no batches; Lightning sets it"
        return self.trainer

    def batches_per_epoch(self) -> int:
        """Training steps of one epoch, before gradient accumulation."""
        full = len(self.splits.train) // self.batch_size
        limit = self.active_trainer.limit_train_batches
        return min(full, limit) if isinstance(limit, int) else int(full * limit)

    def info(self) -> DataInfo:
        """What parts must know of the training samples, with explicit negatives that their views bring."""
        found = self.splits.train.info()
        drawn = self.views.negatives if isinstance(self.views, BringsNegatives) else 0
        return replace(found, negatives=found.negatives + drawn)

    def sizes(self) -> dict[str, int]:
        """What must be the same on all ranks."""
        train, val = self.splits.train, self.splits.val
        found = {"training samples": len(train), "validation samples": len(val), "batches": self.batches_per_epoch()}
        if self.transform is not None:
            found["as the sum of what was learned"] = crc32("".join(self.transform.state_dict().values()).encode())
        return found

    def order(self, epoch: int) -> Iterator[Tensor]:
        """The places of all training samples in an epoch's order, in pieces."""
        epoch *= not self.repeats_batches
        return self.splits.train.order(seeding.generator(self.seed, seeding.ORDER, epoch))

    def train_dataloader(self) -> DataLoader:
        trainer, samples = self.active_trainer, self.splits.train
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        sampler = GlobalBatches(
            self.order, len(samples), self.batch_size, trainer.global_rank, trainer.world_size,
            position=lambda: progress.total.processed, per_epoch=self.batches_per_epoch(),
        )  # fmt: skip
        if self.cache is None and isinstance(samples, TensorSamples) and self._fits(samples.nbytes):
            self.cache = samples.to(trainer.strategy.root_device)
        return self.loader(samples, sampler, seeding.VIEWS)

    def val_dataloader(self) -> DataLoader:
        """The validation split in one random order, that of every epoch, of every run on this data; see the sampler."""
        trainer, samples = self.active_trainer, self.splits.val
        # not samples.order, which may shuffle in windows, as large sets do: each would hold few classes
        places = torch.randperm(len(samples), generator=seeding.generator(self.split_seed, seeding.VALIDATION_ORDER))
        sampler = ValidationBatches(places, self.batch_size, trainer.global_rank, trainer.world_size)
        return self.loader(samples, sampler, seeding.VALIDATION)

    def loader(self, samples: Samples, sampler: GlobalBatches | ValidationBatches, stream: int) -> DataLoader:
        on_device = stream == seeding.VIEWS and self.cache is not None
        fetch = BatchFetch(samples, self.views, self.seed, stream, on_device)
        if stream == seeding.VIEWS and not on_device and self._made_ahead(samples):
            return make_loader(Awaited(), MadeAhead(sampler, partial(self._prepare, fetch)), workers=0)
        pin = self.active_trainer.strategy.root_device.type == "cuda"
        return make_loader(fetch, sampler, samples.workers, pin_memory=pin, keep_workers=True)

    def _made_ahead(self, samples: Samples) -> bool:
        """Whether a thread makes training's batches: on a CPU with a second core, where no worker reads them.

        Not where tensors have another type by default while a step runs, which is so for all threads.
        """
        trainer = self.active_trainer
        free = trainer.strategy.root_device.type == "cpu" and samples.workers == 0 and cores_per_step() > 1
        return free and trainer.precision in ("32-true", "bf16-mixed") and not getattr(self.views, "compiled", False)

    def _prepare(self, fetch: BatchFetch, indices: BatchIndices) -> Callable[[], RawBatch | UnreadableSample]:
        """A batch with its views, to be made by a thread."""
        draws = self._draws(indices)

        def make() -> RawBatch | UnreadableSample:
            batch = fetch[indices]
            if isinstance(batch, UnreadableSample):
                return batch
            assert batch.fetched is not None, "a CPU holds its samples"
            return batch._replace(viewed=self._views_of(draws, batch.fetched.x))

        return make

    def _fits(self, size: int) -> bool:
        """Whether the device is to hold training samples of so many bytes."""
        device = self.active_trainer.strategy.root_device
        if isinstance(self.device_cache, bool):
            return self.device_cache
        return device.type == "cuda" and size <= CACHE_SHARE * torch.cuda.mem_get_info(device)[0]

    def transfer_batch_to_device(
        self, batch: RawBatch | UnreadableSample, device: torch.device, dataloader_idx: int
    ) -> RawBatch:
        if isinstance(batch, UnreadableSample):
            raise batch
        self.fetched_at = perf_counter()  # for speed/data_wait_fraction: from here on it is the device's work
        if batch.fetched is not None:
            self.note(batch.fetched.skipped)
        moved: RawBatch = batch if device.type == "cpu" else move_data_to_device(batch, device)
        if moved.fetched is None:
            assert self.cache is not None
            # by the places on the host: what samples know there, such as lengths, costs no wait for the device
            fetched = self.cache.fetch(batch.indices.places, self._draws(moved.indices))
            moved = moved._replace(fetched=fetched)
        return moved

    def try_views(self) -> Viewed | None:
        """The views of two training samples; None where these are not held in memory.

        Raises:
            ValueError: the user's mistake: options that the data does not fit show here.
        """
        if not isinstance(samples := self.splits.train, TensorSamples):
            return None
        places = torch.arange(2)
        draws = ViewDraws(self.views, self.seed, seeding.PREVIEW, BatchIndices(0, 0, places, slice(0, 2), 2))
        return self._views_of(draws, samples.fetch(places, draws).x)

    def note(self, skipped: Sequence[str]) -> None:
        """Write samples that cannot be read into the run's skipped.txt, each once."""
        for line in skipped:
            if line not in self.skipped:
                self.skipped.add(line)
                with (Path(self.active_trainer.default_root_dir) / "skipped.txt").open("a", encoding="utf-8") as file:
                    file.write(line + "\n")

    def _draws(self, indices: BatchIndices) -> ViewDraws:
        stream = seeding.VIEWS if self.active_trainer.training else seeding.VALIDATION
        return ViewDraws(self._views_at(indices), self.seed, stream, indices)

    def _views_of(self, draws: ViewDraws, x: Any) -> Viewed:
        made = draws.views.apply(x, draws.params())
        return made if isinstance(made, Viewed) else Viewed(made)

    def _views_at(self, indices: BatchIndices) -> Views:
        """The views of a batch, which may change during training: see `progressive` of the images' views."""
        if not (self.active_trainer.training and getattr(self.views, "progressive", None)):
            return self.views
        module: Any = self.active_trainer.lightning_module
        return self.views.at(module.done(indices.epoch, indices.step))  # type: ignore[attr-defined]

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Pair:
        """The views: drawn for the global batch, made for this rank's part."""
        fetched = batch.fetched
        assert fetched is not None, "transfer_batch_to_device fetches what the device holds"
        viewed = self._views_of(self._draws(batch.indices), fetched.x) if batch.viewed is None else batch.viewed
        dtype = next(self.active_trainer.lightning_module.parameters()).dtype  # float64 under precision=64-true
        views = to_float_dtype(viewed.views, dtype)
        crops = None if viewed.crops is None else viewed.crops.to(dtype)
        negatives = None if viewed.negatives is None else to_float_dtype(viewed.negatives, dtype)
        ids = fetched.ids if viewed.ids is None else viewed.ids
        negative_ids = fetched.negative_ids if viewed.negative_ids is None else viewed.negative_ids
        if ids is None:  # validation samples' ids come after the training samples', so that no two samples share one
            ids = batch.indices.places + (0 if self.active_trainer.training else len(self.splits.train))
        ids, total = ids.expand(len(views), -1), batch.indices.total
        catalog = viewed.catalog, viewed.catalog_ids
        return Pair(views, ids, batch.labels, crops, negatives, negative_ids, total, *catalog)


def _as_it_is(x: Any) -> Any:
    return x


def pair_data(trainer: Trainer) -> PairData:
    """The data of a run."""
    return trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it when it is given the data
