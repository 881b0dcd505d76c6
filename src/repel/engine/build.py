"""The parts of a run, built from its config."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from repel.base.cores import limit_threads
from repel.base.signals import DeferredSignals
from repel.engine.configs import to_container
from repel.engine.part_options import check_part_options
from repel.engine.targets import check_objects

__all__ = ["build_data", "build_evaluators", "build_module", "build_trainer", "on_gpu"]

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger

    from repel.data.datamodule import PairData
    from repel.evaluation.protocol import Evaluator
    from repel.module import Contrastive


def _instantiate(node: Any, *args: Any, **kwargs: Any) -> Any:
    """Hydra's instantiate, after a check of all that the node calls."""
    check_objects(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node)
    return hydra.utils.instantiate(node, *args, **kwargs)


def build_data(cfg: DictConfig, learned: Mapping[str, str] | None = None) -> "PairData":
    """The data, not read yet.

    Args:
        learned: of a run's checkpoint, what its data has learned from training samples, such as a tokenizer.
    """
    data: PairData = _instantiate(cfg.data.datamodule)
    if data.transform is not None and learned:
        data.transform.load_state_dict(learned)
    return data


def build_evaluators(nodes: Mapping[str, Any] | None) -> "dict[str, Evaluator]":
    """Name -> what is measured at the end; a name set to null is left out."""
    return {name: _instantiate(node) for name, node in (nodes or {}).items() if node}


def build_module(cfg: DictConfig) -> "Contrastive":
    """The network and its loss, initialized from cfg.seed.

    Raises:
        ValueError: parts that do not go together.
    """
    from lightning.pytorch import seed_everything

    from repel.engine.optimizers import build_optimizer
    from repel.losses.ring import tiled
    from repel.model.memory_format import use_channels_last
    from repel.module import Contrastive

    limit_threads()
    check_part_options(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    encoder = _instantiate(cfg.encoder)
    if cfg.get("channels_last"):  # which earlier configs have not
        use_channels_last(encoder)
    _check_graphs(cfg, getattr(encoder, "graphs", 0))
    micro_batch = OmegaConf.select(cfg, "data.micro_batch")  # likewise
    if micro_batch is not None and getattr(encoder, "propagates", False):
        raise ValueError("data.micro_batch: this encoder propagates all nodes in each pass, whatever the batch: its "
                         "parts take as much memory, and more time; leave it out")  # fmt: skip
    head = _instantiate(cfg.head, in_features=encoder.out_features)
    dim = cfg.head.out_features
    predictor = _instantiate(cfg.predictor, in_features=dim, out_features=dim) if cfg.predictor else None
    loss = _instantiate(cfg.loss)
    local = OmegaConf.select(cfg, "views.local.n")
    if local and not loss.takes_crops:
        raise ValueError("this loss takes no crops that are anchors only; set views.local=null, or choose another loss")
    if loss.needs_predictor and predictor is None:
        raise ValueError("this loss has no negatives and collapses without a predictor: add predictor=mlp")
    if loss.dims is not None and max(loss.dims) > dim:
        raise ValueError(f"loss.dims={list(loss.dims)}: the embeddings have head.out_features={dim} dimensions")
    target = _instantiate(cfg.target, encoder, head) if cfg.target else None
    for changed in annealed(cfg):
        _instantiate(changed.loss)
        _ = _instantiate(changed.target, encoder, head) if cfg.target else None
    own = {key: value for key, value in cfg.schedule.items() if key != "on_extend"}  # which resuming reads
    anneal, schedule = _instantiate(cfg.anneal), _instantiate(own)
    parts = encoder, head, predictor, loss, target, anneal
    gather: Any = OmegaConf.select(cfg, "gather") or "all"  # likewise
    if gather == "ring":
        tiled(loss)
    return Contrastive(*parts, build_optimizer(cfg), schedule, cfg.seed, micro_batch, gather)


def _check_graphs(cfg: DictConfig, drawn: int) -> None:
    """Raises ValueError where views of users and items show more augmented graphs than the encoder draws."""
    further = OmegaConf.select(cfg, "views.further") or []  # each a side and a graph
    shown = max((view[1] for view in further if OmegaConf.is_list(view) and isinstance(view[-1], int)), default=0)
    if shown > drawn:
        raise ValueError(
            f"views.further shows graph {shown}, and this encoder draws {drawn}: choose encoder=lightgcn with "
            "encoder.augment=edges, nodes or noise; or layers, with views=xsimgcl"
        )


def annealed(cfg: DictConfig) -> list[DictConfig]:
    """The config as annealing begins and as it ends, both of which must be allowed; empty where nothing changes."""
    values, configs = cfg.anneal["values"] or {}, []
    for end in (0, 1) if values else ():
        changed = OmegaConf.create(to_container(cfg))
        for key, ends in values.items():
            for place in (key, f"loss.{key}"):  # resolved, the loss has negatives of its own
                if OmegaConf.select(changed, place) is not None:
                    OmegaConf.update(changed, place, ends[end])
        configs.append(changed)
    return configs


def build_trainer(
    cfg: DictConfig,
    folder: Path,
    resume_from: tuple[Path, dict[str, Any]] | None = None,
    signals: DeferredSignals | None = None,
) -> "Trainer":
    """Lightning's Trainer.

    Args:
        folder: the run folder.
        resume_from: path and contents of the checkpoint that the run resumes from; None: it starts anew.
        signals: records a signal to stop.
    """
    from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from repel.engine.agreement import RankAgreement, StopAllRanks
    from repel.engine.batch_norm import CrossRankBatchNormSync
    from repel.engine.checkpoint_callbacks import ConfigInCheckpoint
    from repel.engine.checkpoint_io import AtomicCheckpointIO

    agreement = RankAgreement(signals or DeferredSignals())
    callbacks = _callbacks(cfg)
    loggers = _loggers(cfg, folder, resume_from and resume_from[1]["global_step"])
    several = cfg.trainer.devices * cfg.trainer.num_nodes > 1
    # set explicitly: Lightning would take any SLURM job for one whose ranks srun started
    environment = TorchElasticEnvironment() if "RANK" in os.environ else LightningEnvironment()
    batch_norm = [CrossRankBatchNormSync()] if several and not on_gpu(cfg) else []
    return _instantiate(
        cfg.trainer,
        default_root_dir=str(folder),
        callbacks=[agreement, *callbacks, ConfigInCheckpoint(to_container(cfg)), StopAllRanks(agreement)],
        logger=loggers,
        plugins=[AtomicCheckpointIO(resume_from), environment, *batch_norm],
        sync_batchnorm=several and on_gpu(cfg),
        use_distributed_sampler=False,  # the datamodule divides its own batches
        enable_model_summary=False,
        enable_progress_bar=cfg.callbacks.get("progress") is not None,
        **_debugging_options(cfg.trainer, folder),
    )


def _callbacks(cfg: DictConfig) -> "list[Callback]":
    """The chosen callbacks, in the order in which Lightning is to call them."""
    from lightning.pytorch.callbacks import LearningRateMonitor

    from repel.engine.checkpoint_callbacks import LastCheckpoint
    from repel.engine.compilation import Compilation

    chosen = [_instantiate(node) for node in cfg.callbacks.values() if node]
    _check_finders(cfg.callbacks, chosen)
    if not any(cfg.logger.values()):  # Lightning refuses it where there is nothing to log to
        chosen = [callback for callback in chosen if not isinstance(callback, LearningRateMonitor)]
    if cfg.get("compile"):
        chosen.append(Compilation())
    chosen.sort(key=lambda callback: isinstance(callback, LastCheckpoint))  # what it writes has the others' state
    return chosen


def _loggers(cfg: DictConfig, folder: Path, purge_step: int | None) -> "list[Logger]":
    """The chosen loggers, which write into the run's folder.

    Args:
        purge_step: what is logged after it is of an earlier attempt; None: the run is new.
    """
    from repel.monitoring.loggers import CSVHistory
    from repel.monitoring.services import keep_logger

    def logger(node: DictConfig) -> "Logger":
        purge = {"purge_step": purge_step} if "purge_step" in node else {}
        return keep_logger(_instantiate(node, save_dir=str(folder), **purge))

    if cfg.trainer.get("fast_dev_run"):  # Lightning replaces them by one that does nothing
        return [CSVHistory(str(folder), None)]
    return [logger(node) for node in cfg.logger.values() if node]


def _debugging_options(options: DictConfig, folder: Path) -> dict[str, Any]:
    """Arguments of Lightning's Trainer for options that it would take otherwise."""
    from repel.engine.profiling import make_profiler

    found: dict[str, Any] = {}
    if share := options.get("overfit_batches"):  # Lightning would take the first samples of the data, in its order
        found |= {"overfit_batches": 0.0, "limit_train_batches": share, "limit_val_batches": 0}
    if not OmegaConf.is_config(chosen := options.get("profiler")):  # an object of the user's is built with the trainer
        found["profiler"] = make_profiler(chosen, folder)
    return found


def _check_finders(nodes: DictConfig, callbacks: Collection[Any]) -> None:
    """Raises ValueError where Lightning is to find the batch size or the learning rate, before any data is read."""
    from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

    instead = {
        BatchSizeFinder: "the batch is a part of the loss here, its negatives; set data.batch_size",
        LearningRateFinder: "a contrastive loss is no measure of a learning rate; set optimizer.lr",
    }
    names = [str(name) for name, node in nodes.items() if node]
    for name, callback in zip(names, callbacks, strict=True):
        for finder, words in instead.items():
            if isinstance(callback, finder):
                raise ValueError(f"callbacks.{name}: {finder.__name__} does not work here: {words}")


def on_gpu(cfg: DictConfig) -> bool:
    import torch

    return cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
