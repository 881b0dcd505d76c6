"""Train on this rank: build the parts, check what only the data shows, run Lightning's loop."""

import csv
import logging
import shutil
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerStatus
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard.summary import hparams

from repel.base.signals import DeferredSignals, Stopped
from repel.data.datamodule import PairData
from repel.data.identity import check_unchanged, digest, record_of
from repel.data.length import planned_length, steps_per_epoch
from repel.engine import checkpoint_io, runs
from repel.engine.build import build_data, build_evaluators, build_module, build_trainer, on_gpu
from repel.engine.configs import flatten, load_config, to_container
from repel.engine.data_identity import data_option, hint_of_data_root
from repel.engine.external_launcher import is_external_rank, meet
from repel.engine.notes import end_notes, length_notes, notes, notes_on_test_labels, notes_on_val_labels
from repel.engine.outcomes import MORE_SHARED_MEMORY
from repel.engine.readability import check_test_images
from repel.module import Contrastive, Diverged

__all__ = ["fit", "fit_new", "fit_resumed"]

SILENCED = (  # warnings of the stack that a user can do nothing about
    ".*does not have many workers.*",  # batches are one indexing operation each
    ".*your dataloader is not resumable.*",  # its position is counted, see GlobalBatches
    ".*is smaller than the logging interval.*",
    ".*It is recommended to use .*sync_dist=True.*",  # what is logged without it is equal on all ranks, or rank 0's own
    ".*isinstance.treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
)


def fit(cfg: DictConfig, folder: Path, resume: bool) -> PairData:
    """Train on this rank until the trainer's first limit, from the start or from the folder's last checkpoint.

    Returns:
        The data as read, for the report.

    Raises:
        ValueError: the user's mistake, before training.
        Diverged: the loss or a weight is no longer finite.
        Stopped: a signal asked for it; the current step was completed and saved.
        RuntimeError: any failure during training, a ValueError of the training code included.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    last = folder / "checkpoints" / "last.ckpt"
    resume_from = (last, checkpoint_io.load(last)) if resume else None
    build_evaluators(cfg.get("evaluators"))  # whose mistakes should not show only after training
    signals, module, data = DeferredSignals(), build_module(cfg), build_data(cfg)
    trainer = build_trainer(cfg, folder, resume_from, signals)
    step = None if resume_from is None else resume_from[1]["global_step"]
    data.trainer = trainer  # as Lightning does on fit; the checks need it before
    with hint_of_data_root(cfg) if resume else nullcontext():
        data.setup()
    if resume_from is not None and "samples" in resume_from[1]:  # version 0.1 kept none
        check_unchanged(resume_from[1]["samples"], data.splits, data_option(cfg))
    check_data(data, cfg.data.batch_size, trainer.world_size)
    check_shared_memory(cfg, data.splits.train.workers)
    if module.loss.supervised and not data.labelled:
        one = "" if data.single_class is None else f" ({data.single_class}, the class of all training samples, is none)"
        raise ValueError(
            f"the loss or its negatives use labels, and this data has none{one}; choose others, or other data"
        )
    module.give_data_info(data.splits.train.info())
    if resume_from is not None:
        # Lightning would load the weights first, and so round those of 64-true to float32
        trainer.precision_plugin.convert_module(module)
        checkpoint_io.check_fits(module, resume_from[1], last)
        module.on_load_checkpoint(resume_from[1])  # as Lightning does later; the notes need it now
        del resume_from  # the trainer has it, and frees it when it is restored
    if trainer.is_global_zero:
        summarize(cfg, data, module, trainer, step)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero and not resume:
            log_hyperparameters(logger, cfg)
    if trainer.is_global_zero and not resume:
        check_test_images(cfg, data)
    train(trainer, module, data, signals, last, resume)
    if trainer.is_global_zero:
        _record_end(cfg, folder, trainer, module, data)
    return data


def _record_end(cfg: DictConfig, folder: Path, trainer: Trainer, module: Contrastive, data: PairData) -> None:
    """What only the end of training knows: files that were skipped, notes, the last values."""
    if len(data.skipped) > len(data.splits.skipped):
        print_skipped(folder)
    if cfg.trainer.get("max_time"):  # only now it is known how long that was
        for note in end_notes(module, trainer.global_step / steps_per_epoch(trainer, data.batches_per_epoch())):
            print(f"note     {note}")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if not metrics:  # nothing was left to train: it was stopped between the last step and here
        metrics = last_values(folder)
    runs.add_metrics(folder, metrics | {"train/steps": trainer.global_step})


def fit_new(folder: Path) -> None:
    """A rank's task: train a new run, by the config in its folder."""
    fit(load_config(runs.current_config(folder)), folder, resume=False)


def fit_resumed(folder: Path) -> None:
    """A rank's task: resume a run from its last checkpoint."""
    fit(load_config(runs.current_config(folder)), folder, resume=True)


def train(
    trainer: Trainer, module: Contrastive, data: PairData, signals: DeferredSignals, last: Path, resume: bool
) -> None:
    """Lightning's fit, with its failures as the exceptions that fit() documents."""
    try:
        if is_external_rank() and not dist.is_initialized():
            meet()
        with signals:
            trainer.fit(module, data, ckpt_path=str(last) if resume else None, weights_only=True)
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        raise Stopped(signal.SIGINT) from None  # Lightning turns a second ^C into exit status 1
    except ValueError as error:  # not of an option: those were checked before
        raise RuntimeError(f"ValueError: {error}") from error
    except Diverged as error:
        kept = f"the last good checkpoint is {last}" if last.exists() else "there was no checkpoint yet"
        raise Diverged(f"{error}; {kept}") from error


def last_values(folder: Path) -> dict[str, float]:
    """The last value of everything in metrics.csv."""
    if not (folder / "metrics.csv").exists():
        return {}
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name: float(value) for row in rows for name, value in row.items() if value}
    return {name: value for name, value in found.items() if name not in ("epoch", "step")}


def log_hyperparameters(logger: TensorBoardLogger, cfg: DictConfig) -> None:
    """TensorBoard's hyperparameter table, from the start; it takes the metrics from the scalars of that name."""
    leaves = flatten(to_container(cfg))
    values = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in leaves.items()}
    metrics = "val/knn_top1", "val/loss", "test/knn_top1", "test/linear_top1"
    experiment, start, _ = hparams(values, dict.fromkeys(metrics, 0.0))
    for summary in (experiment, start):
        logger.experiment.file_writer.add_summary(summary)


def check_data(data: PairData, batch_size: int, world: int) -> None:
    """Options that can only be checked against the data.

    Raises:
        ValueError: one line that names the key.
    """
    train, val = len(data.splits.train), len(data.splits.val)
    if batch_size > train:
        raise ValueError(f"data.batch_size={batch_size} is larger than the {train} training images; use a smaller one")
    if val < 2 * world:
        raise ValueError(
            f"{val} validation images are too few for {world} ranks; raise data.val_fraction or add images"
        )
    if data.batches_per_epoch() < 1:
        raise ValueError("trainer.limit_train_batches leaves no batch in an epoch; raise it")


def check_shared_memory(cfg: DictConfig, workers: int, place: Path = Path("/dev/shm")) -> None:
    """Raises ValueError where the data workers' batches do not fit: a worker would fail, and training wait for it."""
    side, channels, views = (OmegaConf.select(cfg, key) for key in ("data.image_size", "data.channels", "views.n"))
    if not (workers and side and channels and views and place.is_dir()):
        return
    # of all ranks on this machine, each with these workers; a worker holds a batch at least
    needed = workers * (cfg.data.batch_size // cfg.trainer.num_nodes) * views * channels * side**2
    if (free := shutil.disk_usage(place).free) < needed:
        raise ValueError(
            f"{place} has {free / 2**20:,.1f} MB free, and the batches of data.workers={workers} need at least "
            f"{needed / 2**20:,.1f} MB there: {MORE_SHARED_MEMORY}"
        )


def summarize(cfg: DictConfig, data: PairData, module: Contrastive, trainer: Trainer, step: int | None) -> None:
    """Print what this run is, in a few lines."""
    splits, world = data.splits, trainer.world_size
    sizes = f"{len(splits.train):,} train, {len(splits.val):,} validation, {len(splits.test):,} test"
    labels = f"{len(splits.classes)} classes" if data.labelled else "no labels: label metrics are left out"
    parameters = sum(p.numel() for p in module.parameters())
    device = torch.cuda.get_device_name() if on_gpu(cfg) else f"cpu, {torch.get_num_threads()} threads"
    print(f"data     {sizes} {splits.train.description}, {labels}")
    data.note(splits.skipped)
    print_skipped(Path(trainer.default_root_dir))
    runs.update_environment(
        Path(trainer.default_root_dir), device=f"{world} x {device}", data=digest(record_of(splits))
    )
    print(f"model    {parameters:,} parameters, {module.encoder.out_features} features")
    print(f"labels   {'used' if module.loss.supervised else 'not used'} for training")
    print(
        f"devices  {world} x {device}, {cfg.trainer.precision}; batch {cfg.data.batch_size}, "
        f"{data.batches_per_epoch()} steps an epoch, {ends(trainer, cfg.trainer.get('max_time'))}"
        + (f", from step {step}" if step else "")
    )
    bank = cfg.evaluation.bank
    for note in [
        *notes_on_val_labels(data, bank),
        *notes_on_test_labels(data, bank),
        *notes(cfg, module, world),
        *length_notes(module, planned_length(trainer, data.batches_per_epoch())),
    ]:
        print(f"note     {note}")


def ends(trainer: Trainer, time: str | None) -> str:
    """When training ends, in words, by the first limit that is reached."""
    limits = {"epochs": trainer.max_epochs, "steps": trainer.max_steps}
    words = [f"{limit} {unit}" for unit, limit in limits.items() if limit not in (None, -1)]
    return " or ".join([*words, *([f"{time} (DD:HH:MM:SS)"] if time else [])]) or "Lightning's default of epochs"


def print_skipped(folder: Path) -> None:
    """Print how many files were left out so far, if any: each is a line of skipped.txt, which all ranks write."""
    if (folder / "skipped.txt").exists():
        files = sorted(set((folder / "skipped.txt").read_text().splitlines()))
        print(f"skipped  {len(files)} unreadable files, listed in skipped.txt, the first: {files[0]}")
