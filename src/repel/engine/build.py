"""The parts of a run, built from its config."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from repel.base.signals import Asked
from repel.cli.checks import as_typed, check_targets, plain
from repel.engine.configs import with_new_names

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, Trainer
    from lightning.pytorch.loggers import Logger

    from repel.evaluation.protocol import Evaluator
    from repel.module import Contrastive


def saved(config: dict[str, Any]) -> DictConfig:
    """A config that comes from a file, not from conf/."""
    config = with_new_names(config)
    check_targets(config)
    return OmegaConf.create(config)


def with_data(cfg: DictConfig, run: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the data that a command names in place of its own, to be seen by the run's encoder.

    Channels, mean and std are the run's, as the encoder knows nothing else, and the image size unless it was typed.

    Args:
        cfg: the command's config, with a group `data`, or null for the run's own data, and `data_root`, where this
            lies now, or null.
        run: the run's config, as its checkpoint holds it.
    """
    run = copy.deepcopy(run)
    if cfg.data_root is not None:
        if "root" not in run["data"]:
            raise ValueError("data_root: the run's data has no root; leave it out")
        run["data"]["root"] = run["data"]["datamodule"]["read"]["root"] = cfg.data_root
    if cfg.get("data") is None:
        return run
    typed = {o.split("=")[0] for o in as_typed()}
    kept = {key: run["data"][key] for key in ("channels", "mean", "std", "image_size") if f"data.{key}" not in typed}
    return run | {"data": plain(OmegaConf.merge(cfg, {"data": kept}))["data"]}


def build_data(cfg: DictConfig) -> "LightningDataModule":
    return instantiate(cfg.data.datamodule)


def build_evaluators(nodes: Mapping[str, Any] | None) -> "dict[str, Evaluator]":
    """Name -> what is measured at the end; a name set to null is left out."""
    return {name: instantiate(node) for name, node in (nodes or {}).items() if node}


def build_module(cfg: DictConfig) -> "Contrastive":
    """The network and its loss, initialised from cfg.seed.

    Raises:
        ValueError: parts that do not go together.
    """
    from lightning.pytorch import seed_everything

    from repel.module import Contrastive

    seed_everything(cfg.seed, workers=True, verbose=False)
    encoder = instantiate(cfg.encoder)
    head = instantiate(cfg.head, in_features=encoder.out_features)
    dim = cfg.head.out_features
    predictor = instantiate(cfg.predictor, in_features=dim, out_features=dim) if cfg.predictor else None
    loss = instantiate(cfg.loss)
    local = OmegaConf.select(cfg, "views.local.n")
    if local and not loss.takes_crops:
        raise ValueError("this loss takes no crops that are anchors only; set views.local=null, or choose another loss")
    if loss.needs_predictor and predictor is None:
        raise ValueError("this loss has no negatives and collapses without a predictor: add predictor=mlp")
    target = instantiate(cfg.target, encoder, head) if cfg.target else None
    for changed in annealed(cfg):
        instantiate(changed.loss)
        _ = instantiate(changed.target, encoder, head) if cfg.target else None
    parts = [encoder, head, predictor, loss, target]
    return Contrastive(*parts, instantiate(cfg.anneal), instantiate(cfg.optimizer), instantiate(cfg.schedule), cfg.seed)


def annealed(cfg: DictConfig) -> list[DictConfig]:
    """The config as annealing begins and as it ends, both of which must be allowed; empty where nothing changes."""
    values, configs = cfg.anneal["values"] or {}, []
    for end in (0, 1) if values else ():
        changed = OmegaConf.create(plain(cfg))
        for key, ends in values.items():
            for place in (key, f"loss.{key}"):  # resolved, the loss has negatives of its own
                if OmegaConf.select(changed, place) is not None:
                    OmegaConf.update(changed, place, ends[end])
        configs.append(changed)
    return configs


def build_trainer(cfg: DictConfig, folder: Path, purge_step: int | None, asked: Asked | None = None) -> "Trainer":
    """Lightning's Trainer for a run that starts anew (purge_step None) or goes on from a step.

    Args:
        asked: where a signal to stop is noted.
    """
    from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from repel.engine.agreement import StopTogether, Together
    from repel.engine.batch_norm import AcrossRanks
    from repel.engine.checkpoints import AtomicCheckpointIO, ConfigInCheckpoint

    together = Together(asked or Asked())
    chosen = [instantiate(node) for node in cfg.callbacks.values() if node]

    def logger(node: DictConfig) -> "Logger":
        return instantiate(node, save_dir=str(folder), **({"purge_step": purge_step} if "purge_step" in node else {}))

    synchronised = cfg.trainer.devices * cfg.trainer.num_nodes > 1
    # what started the ranks is said, not guessed: Lightning would take any SLURM job for one with srun
    environment = TorchElasticEnvironment() if "RANK" in os.environ else LightningEnvironment()
    plugins = [AtomicCheckpointIO(), environment, *([AcrossRanks()] if synchronised and not on_gpu(cfg) else [])]
    return instantiate(
        cfg.trainer,
        default_root_dir=str(folder),
        callbacks=[together, *chosen, ConfigInCheckpoint(plain(cfg)), StopTogether(together)],
        logger=[logger(node) for node in cfg.logger.values() if node],
        plugins=plugins,
        sync_batchnorm=synchronised and on_gpu(cfg),
        use_distributed_sampler=False,  # the datamodule shares out its own batches
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=cfg.callbacks.progress is not None,
    )


def on_gpu(cfg: DictConfig) -> bool:
    import torch

    return cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
