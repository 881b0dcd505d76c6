"""What a run is, in the lines that it prints before it trains."""

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig

from repel.data.datamodule import PairData
from repel.data.identity import digest, record_of
from repel.data.length import TrainingLength, ends, planned_length
from repel.engine import runs
from repel.engine.build import on_gpu
from repel.engine.notes import length_notes, notes, notes_on_test_labels, notes_on_val_labels, resume_notes
from repel.engine.resumed import differences, note_device
from repel.engine.trainer_limits import trainer_notes
from repel.evaluation.ranking import UserItemPairs
from repel.module import Contrastive

__all__ = ["print_skipped", "summarize"]


def summarize(
    cfg: DictConfig,
    data: PairData,
    module: Contrastive,
    trainer: Trainer,
    step: int | None,
    before: TrainingLength | None = None,
) -> None:
    """Print what this run is, in a few lines.

    Args:
        step: that it resumes from; None: it is new.
        before: how long it was to last before it resumed.
    """
    splits, world = data.splits, trainer.world_size
    sizes = f"{len(splits.train):,} train, {len(splits.val):,} validation, {len(splits.test):,} test"
    labels = f", {len(splits.classes)} classes" if data.labelled else ", no labels: label metrics are left out"
    if isinstance(splits.train, UserItemPairs):  # which never have any
        labels = ""
    parameters = sum(p.numel() for p in module.parameters())
    device = torch.cuda.get_device_name() if on_gpu(cfg) else f"cpu, {torch.get_num_threads()} threads"
    print(f"data     {sizes} {splits.train.description}{labels}")
    data.note(splits.skipped)
    print_skipped(Path(trainer.default_root_dir))
    note_device(Path(trainer.default_root_dir), f"{world} x {device}", resume=step is not None)
    runs.update_environment(Path(trainer.default_root_dir), data=digest(record_of(splits)))
    print(f"model    {parameters:,} parameters, {module.encoder.out_features} features")
    print(f"labels   {'used' if module.loss.supervised else 'not used'} for training")
    print(
        f"devices  {world} x {device}, {cfg.trainer.precision}; batch {cfg.data.batch_size}, "
        f"{data.batches_per_epoch()} steps an epoch, {ends(trainer, cfg.trainer.get('max_time'))}"
        + (f", from step {step}" if step else "")
    )
    bank, fast = cfg.evaluation.bank, cfg.trainer.get("fast_dev_run")
    for note in [
        *notes_on_val_labels(data, bank),
        *notes_on_test_labels(data, bank),
        *notes(cfg, module, world),
        *trainer_notes(cfg.trainer, data),
        *(() if fast else length_notes(module, planned_length(trainer, data.batches_per_epoch()), before)),
        *resume_notes(module, differences(Path(trainer.default_root_dir))),
    ]:
        print(f"note     {note}")


def print_skipped(folder: Path) -> None:
    """Print how many files were left out so far, if any: each is a line of skipped.txt, which all ranks write."""
    if (folder / "skipped.txt").exists():
        files = sorted(set((folder / "skipped.txt").read_text(encoding="utf-8").splitlines()))
        print(f"skipped  {len(files)} unreadable files, listed in skipped.txt, the first: {files[0]}")
