"""Train on this rank: build the parts, check what only the data shows, run Lightning's loop."""

import csv
import logging
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerStatus
from omegaconf import DictConfig

from repel.base.allocator import keep_freed_memory
from repel.base.signals import DeferredSignals, Stopped
from repel.data.datamodule import PairData
from repel.data.identity import check_unchanged
from repel.data.length import steps_per_epoch
from repel.engine import checkpoint_io, runs
from repel.engine.build import build_data, build_evaluators, build_module, build_trainer
from repel.engine.compilation import check_compiler
from repel.engine.configs import flatten, load_config, to_container
from repel.engine.data_identity import data_option, hint_of_data_root
from repel.engine.data_limits import check_data, check_views
from repel.engine.extension import prepare_resume
from repel.engine.external_launcher import is_external_rank, meet
from repel.engine.initial_weights import read_weights, start_from
from repel.engine.notes import end_notes
from repel.engine.profiling import print_profile
from repel.engine.rank_links import explain_lost_connection
from repel.engine.readability import check_test_images
from repel.engine.summary import print_skipped, summarize
from repel.module import Contrastive, Diverged
from repel.monitoring.tensorboard import log_run

__all__ = ["fit", "fit_new", "fit_resumed"]

SILENCED = (  # warnings of the stack that a user can do nothing about
    ".*does not have many workers.*",  # batches are one indexing operation each
    ".*your dataloader is not resumable.*",  # its position is counted, see GlobalBatches
    ".*is smaller than the logging interval.*",
    ".*It is recommended to use .*sync_dist=True.*",  # what is logged without it is equal on all ranks, or rank 0's own
    ".*isinstance.treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`srun` command is available on your system but is not used.*",  # ranks are started here, or by torchrun or srun
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
    _silence()
    last = folder / "checkpoints" / "last.ckpt"
    resume_from = (last, checkpoint_io.load(last)) if resume else None
    build_evaluators(cfg.get("evaluators"))  # whose mistakes should not show only after training
    weights = read_weights(cfg.init) if cfg.get("init") and not resume else None
    learned = resume_from and resume_from[1].get("learned")
    signals, module, data = DeferredSignals(), build_module(cfg), build_data(cfg, learned)
    if weights is not None:
        weights.give_learned(data.transform, cfg)
    trainer = build_trainer(cfg, folder, resume_from, signals)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    if cfg.get("compile"):
        check_compiler(trainer.strategy.root_device)
    step = None if resume_from is None else resume_from[1]["global_step"]
    data.trainer = trainer  # as Lightning does on fit; the checks need it before
    _read_data(cfg, data, module, trainer.world_size, resume_from and resume_from[1])
    if trainer.is_global_zero and data.transform is not None:
        for name, text in data.transform.state_dict().items():
            (folder / name).write_text(text, encoding="utf-8")
    module.give_data_info(data.info())
    if getattr(data.views, "progressive", None):
        data.views.check_encoder(module.encoder)  # type: ignore[attr-defined]
    if weights is not None:
        start_from(weights, cfg, module, folder, say=trainer.is_global_zero)
    before = None
    if resume_from is not None:
        before = prepare_resume(cfg, trainer, module, data, *resume_from)
        del resume_from  # the trainer has it, and frees it when it is restored
    if trainer.is_global_zero:
        summarize(cfg, data, module, trainer, step, before)
        if not resume:
            _log_options(cfg, folder, trainer)
            check_test_images(cfg, data)
    began = perf_counter()
    train(trainer, module, data, signals, last, resume)
    seconds = perf_counter() - began
    if trainer.is_global_zero:
        print_profile(trainer.profiler, folder)  # type: ignore[attr-defined]
        _record_end(cfg, folder, trainer, module, data, seconds)
    return data


def _read_data(
    cfg: DictConfig, data: PairData, module: Contrastive, world: int, resumed: dict[str, Any] | None
) -> None:
    """Read the data and check it.

    Args:
        resumed: contents of the checkpoint that the run resumes from.
    """
    data.repeats_batches = bool(cfg.trainer.get("overfit_batches"))
    with hint_of_data_root(cfg) if resumed else nullcontext():
        data.setup()
    if resumed and "samples" in resumed:  # version 0.1 kept none
        check_unchanged(resumed["samples"], data.splits, data_option(cfg))
    check_data(cfg, module, data, world)
    check_views(cfg, module.loss, data.try_views())


def _record_end(
    cfg: DictConfig, folder: Path, trainer: Trainer, module: Contrastive, data: PairData, seconds: float
) -> None:
    """What only the end of training knows: files that were skipped, notes, the last values.

    Args:
        seconds: that training took, validation included; where the run was resumed, since then.
    """
    if len(data.skipped) > len(data.splits.skipped):
        print_skipped(folder)
    if cfg.trainer.get("max_time"):  # only now it is known how long that was
        for note in end_notes(module, trainer.global_step / steps_per_epoch(trainer, data.batches_per_epoch())):
            print(f"note     {note}")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if not metrics:  # nothing was left to train: it was stopped between the last step and here
        metrics = last_values(folder)
    runs.add_metrics(folder, metrics | {"train/steps": trainer.global_step, "speed/training_seconds": seconds})


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
    except RuntimeError as error:
        explain_lost_connection(error)
        raise


def last_values(folder: Path) -> dict[str, float]:
    """The last value of everything in metrics.csv."""
    if not (folder / "metrics.csv").exists():
        return {}
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {name: float(value) for row in rows for name, value in row.items() if value}
    return {name: value for name, value in found.items() if name not in ("epoch", "step")}


def _silence() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)


def _log_options(cfg: DictConfig, folder: Path, trainer: Trainer) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            log_run(logger, flatten(to_container(cfg)), runs.read_environment(folder))
