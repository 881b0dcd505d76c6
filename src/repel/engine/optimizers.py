"""The optimizer that a config names: its learning rate scaled, its options tried."""

from functools import partial
from typing import Any

import hydra.utils
import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from repel.engine.configs import to_container
from repel.engine.part_options import takes
from repel.engine.targets import check_objects
from repel.model.optim import scaled_rate

__all__ = ["build_optimizer"]


def build_optimizer(cfg: DictConfig) -> partial[Optimizer]:
    """The optimizer's class with its hyperparameters; the learning rate scaled as optimizer.scale_lr says.

    Raises:
        ValueError: options that it does not take; clipping that Lightning refuses for fused optimizers.
    """
    options = to_container(cfg.optimizer)
    rule = options.pop("scale_lr", None) or "off"  # earlier configs have none; YAML takes an unquoted off for false
    if rule != "off":
        if "lr" not in options:
            raise ValueError("optimizer.scale_lr scales optimizer.lr, which this optimizer has not; leave it out")
        options["lr"] = scaled_rate(options["lr"], rule, cfg.data.batch_size)
    _check_fused(options, cfg)
    optimizer: partial[Optimizer] = _made(options)
    try:  # what it does not take should not show only after the data is read
        optimizer([{"params": [nn.Parameter(torch.zeros(1, 1))]}])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimizer: {options['_target_']}: {error}") from error
    return optimizer


def _made(options: dict[str, Any]) -> Any:
    check_objects(options)
    return hydra.utils.instantiate(options)


def _check_fused(options: dict[str, Any], cfg: DictConfig) -> None:
    """Raises ValueError where a fused optimizer cannot be; takes null out, which other optimizers do not know."""
    if options.get("fused") is None:
        options.pop("fused", None)
    elif not takes(options["_target_"], "fused"):
        raise ValueError(f"optimizer.fused: {options['_target_']} has no fused form; type ~optimizer.fused")
    elif options["fused"] and cfg.trainer.get("gradient_clip_val") and str(cfg.trainer.precision).endswith("-mixed"):
        raise ValueError(
            f"trainer.gradient_clip_val: with trainer.precision={cfg.trainer.precision} Lightning does not clip for "
            "fused optimizers; type optimizer.fused=null"
        )
