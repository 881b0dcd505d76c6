"""A run: train on this rank, then measure the chosen checkpoint."""

import csv
import logging
import math
import signal
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerStatus
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard.summary import hparams

from repel.base.signals import Asked, Stopped
from repel.cli.checks import flatten, plain
from repel.data.datamodule import PairData
from repel.engine import checkpoints, runs
from repel.engine.batch_norm import left_alone
from repel.engine.build import build_data, build_evaluators, build_module, build_trainer, on_gpu
from repel.module import Contrastive, Diverged

SILENCED = (  # warnings of the stack about which a user can do nothing
    ".*does not have many workers.*",  # batches are one indexing operation each
    ".*your dataloader is not resumable.*",  # its position is counted, see GlobalBatches
    ".*is smaller than the logging interval.*",
    ".*It is recommended to use .*sync_dist=True.*",  # what is logged without is the same on all ranks, or the first's
    ".*isinstance.treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
)


def fit(cfg: DictConfig, folder: Path, resume: bool) -> PairData:
    """Train on this rank until trainer.max_epochs, from the start or from the folder's last checkpoint.

    Returns:
        The data as read, for the report.

    Raises:
        ValueError: the user's mistake, before training.
        Diverged: the loss or a weight is no longer finite.
        Stopped: a signal asked for it; the step that was under way is done and saved.
        RuntimeError: anything that goes wrong in training, a ValueError of the code that trains included.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    last = folder / "checkpoints" / "last.ckpt"
    before = checkpoints.load(last) if resume else None
    step = before and before["global_step"]
    build_evaluators(cfg.get("evaluators"))  # of which mistakes should not come out after training
    asked = Asked()
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg, folder, step, asked)
    data.trainer = trainer  # as Lightning does on fit; the checks need it before
    data.setup()
    check_data(data, cfg.data.batch_size, trainer.world_size)
    if module.loss.supervised and not data.labelled:
        raise ValueError("the loss or its negatives use labels, and this data has none; choose others, or other data")
    module.give_data_info(data.splits.train.info())
    if before is not None:
        checkpoints.check_fits(module, before, last)
        del before
    if trainer.is_global_zero:
        summarize(cfg, data, module, trainer, step)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero and not resume:
            log_hyperparameters(logger, cfg)
    train(trainer, module, data, asked, last, resume)
    if trainer.is_global_zero:
        if len(data.skipped) > len(data.splits.skipped):
            tell_skipped(folder)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not metrics:  # nothing was left to train: it was stopped on its way from the last step to here
            metrics = last_values(folder)
        runs.add_metrics(folder, metrics | {"train/steps": trainer.global_step})
    return data


def train(trainer: Trainer, module: Contrastive, data: PairData, asked: Asked, last: Path, resume: bool) -> None:
    """Lightning's fit, whose ends get the words that the callers know; see fit."""
    try:
        with asked:
            trainer.fit(module, data, ckpt_path=str(last) if resume else None, weights_only=True)
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        raise Stopped(signal.SIGINT) from None  # Lightning turns a second ^C into exit status 1
    except ValueError as error:  # nobody's option: those were checked before
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
    values = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in flatten(plain(cfg)).items()}
    metrics = "val/knn_top1", "val/loss", "test/knn_top1", "test/linear_top1"
    experiment, start, _ = hparams(values, dict.fromkeys(metrics, 0.0))
    for summary in (experiment, start):
        logger.experiment.file_writer.add_summary(summary)


def check_data(data: PairData, batch_size: int, world: int) -> None:
    """What can only be known once the data is there.

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


def summarize(cfg: DictConfig, data: PairData, module: Contrastive, trainer: Trainer, step: int | None) -> None:
    """What this run is, in a few lines."""
    splits, world = data.splits, trainer.world_size
    sizes = f"{len(splits.train):,} train, {len(splits.val):,} validation, {len(splits.test):,} test"
    labels = f"{len(splits.classes)} classes" if data.labelled else "no labels: label metrics are left out"
    parameters = sum(p.numel() for p in module.parameters())
    device = torch.cuda.get_device_name() if on_gpu(cfg) else f"cpu, {torch.get_num_threads()} threads"
    print(f"data     {sizes} {splits.train.description}, {labels}")
    data.note(splits.skipped)
    tell_skipped(Path(trainer.default_root_dir))
    runs.note(Path(trainer.default_root_dir), device=f"{world} x {device}")
    print(f"model    {parameters:,} parameters, {module.encoder.out_features} features")
    print(f"training labels {'touch' if module.loss.supervised else 'do not touch'} training")
    print(
        f"devices  {world} x {device}, {cfg.trainer.precision}; batch {cfg.data.batch_size}, "
        f"{data.batches_per_epoch()} steps an epoch, {trainer.max_epochs} epochs"
        + (f", from step {step}" if step else "")
    )
    for note in notes(cfg, module, world):
        print(f"note     {note}")


def tell_skipped(folder: Path) -> None:
    """How many files were left out so far, if any: each is a line of skipped.txt, which all ranks write."""
    if (folder / "skipped.txt").exists():
        files = sorted(set((folder / "skipped.txt").read_text().splitlines()))
        print(f"skipped  {len(files)} unreadable files, listed in skipped.txt, the first: {files[0]}")


def notes(cfg: DictConfig, module: Contrastive, world: int) -> list[str]:
    """What is allowed and may surprise."""
    found = []
    if world > 1 and not on_gpu(cfg) and left_alone(module):
        found.append("some batch norms of this network take their statistics on each rank alone: on CPUs, only plain "
                     "BatchNorm1d and BatchNorm2d are synchronised")  # fmt: skip
    if cfg.queue.size and module.target is None and not module.loss.tolerates_old_keys:
        found.append("a queue without target=ema holds embeddings of a network that has moved on since")
    tau, t = (OmegaConf.select(cfg, key) for key in ("negatives.tau_plus", "loss.temperature"))
    if tau and t and tau * math.exp(0.8 / t) > 1:  # the share of Z taken out, for positives at a cosine of 0.8
        found.append(
            f"negatives.tau_plus={tau} at loss.temperature={t} will leave no gradient from most negatives; "
            "raise the temperature (0.5 in the papers) or lower tau_plus, and watch negatives/clamped_fraction"
        )
    return found
