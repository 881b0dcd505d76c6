"""Configs as plain containers and as files. Imports neither torch nor lightning."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from repel.engine.redact import without_secrets
from repel.engine.targets import CONF, check_targets, targets

__all__ = [
    "CONF",
    "RENAMED_TARGETS",
    "check_targets",
    "flatten",
    "load_config",
    "targets",
    "to_container",
    "with_data_root",
    "with_values",
]

RENAMED_TARGETS = {  # in configs of the first edition (0.1), those inside its checkpoints included
    "repel.anneal.Anneal": "repel.model.anneal.Anneal",
    "repel.callbacks.PairsGrid": "repel.monitoring.view_pairs.ViewPairs",
    "repel.images.pairs_grid.PairsGrid": "repel.monitoring.view_pairs.ViewPairs",
    "repel.callbacks.Progress": "repel.monitoring.progress.Progress",
    "repel.callbacks.Speed": "repel.monitoring.progress.Speed",
    "repel.checkpoints.BestCheckpoint": "repel.engine.checkpoint_callbacks.BestCheckpoint",
    "repel.checkpoints.LastCheckpoint": "repel.engine.checkpoint_callbacks.LastCheckpoint",
    "repel.data.datamodule.ImageData": "repel.data.datamodule.PairData",
    "repel.data.folder.image_folder": "repel.images.folder.image_folder",
    "repel.data.readers.cifar10": "repel.images.datasets.cifar10",
    "repel.data.readers.cifar100": "repel.images.datasets.cifar100",
    "repel.data.readers.fashion_mini": "repel.images.datasets.fashion_mini",
    "repel.data.readers.fashion_mnist": "repel.images.datasets.fashion_mnist",
    "repel.data.readers.stl10": "repel.images.datasets.stl10",
    "repel.data.shards.stream": "repel.images.shards.stream",
    "repel.ema.EMA": "repel.model.ema.EMA",
    "repel.encoders.SmallResNet": "repel.images.encoders.SmallResNet",
    "repel.encoders.TimmEncoder": "repel.images.encoders.TimmEncoder",
    "repel.encoders.TorchvisionResNet": "repel.images.encoders.TorchvisionResNet",
    "repel.evaluation.corruptions.Corruptions": "repel.images.corruptions.Corruptions",
    "repel.evaluation.knn.ValidationKNN": "repel.monitoring.validation_knn.ValidationKNN",
    "repel.evaluation.spread.Spread": "repel.evaluation.geometry_evaluator.FeatureGeometry",
    "repel.evaluation.trained.FineTune": "repel.images.finetune.FineTune",
    "repel.evaluation.trained.SGDProbe": "repel.images.finetune.SGDProbe",
    "repel.heads.linear": "repel.model.heads.linear",
    "repel.heads.mlp": "repel.model.heads.mlp",
    "repel.health.Health": "repel.monitoring.health.Health",
    "repel.loggers.CSVHistory": "repel.monitoring.loggers.CSVHistory",
    "repel.loggers.wandb_logger": "repel.monitoring.services.wandb_logger",
    "repel.monitoring.loggers.wandb_logger": "repel.monitoring.services.wandb_logger",
    "repel.monitor.Monitor": "repel.monitoring.monitor.Monitor",
    "repel.optim.constant": "repel.model.optim.constant",
    "repel.optim.cosine": "repel.model.optim.cosine",
    "repel.pruning.Pruning": "repel.cli.optuna_pruning.Pruning",
    "repel.study.TakeUp": "repel.cli.optuna_study.RequeueInterruptedTrials",
    "repel.views.augment.Augment": "repel.images.views.augment.Augment",
    "repel.views.normalize.Normalize": "repel.images.views.normalize.Normalize",
    "repel.views.views.Views": "repel.images.views.views.Views",
}

REMOVED_ARGUMENTS = {  # since the first edition: class -> arguments that it took
    "repel.monitoring.view_pairs.ViewPairs": ("mean", "std"),
}

ADDED_ARGUMENTS: dict[str, dict[str, tuple[dict[str, Any], dict[str, str]]]] = {
    # since the first edition: class -> argument -> its value, and what of it is an option of the run's
    "repel.data.datamodule.PairData": {  # evaluated images of another size than the option where a set stores such
        "prepare": ({"_target_": "repel.images.sizes.at_size", "_partial_": True}, {"size": "data.image_size"}),
    },
}


def to_container(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    """The resolved config as dicts and lists. A secret of the environment becomes the interpolation that finds it."""
    return without_secrets(OmegaConf.to_container(cfg, resolve=True))


def flatten(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys -> leaves, unresolved; lists are leaves."""
    if not isinstance(cfg, DictConfig | dict):
        return {prefix: cfg}
    if isinstance(cfg, DictConfig):
        cfg = OmegaConf.to_container(cfg, resolve=False) or {}
    leaves: dict[str, Any] = {}
    for key, value in cfg.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        leaves |= flatten(value, dotted) if isinstance(value, dict) and value else {dotted: value}
    return leaves


def load_config(config: dict[str, Any]) -> DictConfig:
    """A config that comes from a file, a checkpoint or a run folder, with today's names in place of earlier ones.

    Raises:
        ValueError: it names a _target_ that such a config may not call, or would compute one.
    """
    config = _rename_targets(config)
    config = _update_arguments(config, config)
    check_targets(config, from_file=True)
    _check_interpolations(config)
    return OmegaConf.create(config)


def with_data_root(config: dict[str, Any], root: str) -> dict[str, Any]:
    """A run's config with its data in another folder.

    Raises:
        ValueError: its data is in no folder.
    """
    data = config["data"]
    if "root" not in data:
        raise ValueError("data_root: the run's data has no root; leave it out")
    module = data["datamodule"]
    return config | {"data": data | {"root": root, "datamodule": module | {"read": module["read"] | {"root": root}}}}


def _update_arguments(config: dict[str, Any], node: Any) -> Any:
    """A part of a config with the arguments that its class takes today; none is added whose keys the config lacks."""
    if isinstance(node, list):
        return [_update_arguments(config, item) for item in node]
    if not isinstance(node, dict):
        return node
    removed = REMOVED_ARGUMENTS.get(str(node.get("_target_")), ())
    node = {key: _update_arguments(config, value) for key, value in node.items() if key not in removed}
    for argument, (value, keys) in ADDED_ARGUMENTS.get(str(node.get("_target_")), {}).items():
        found = {name: _value_at(config, key) for name, key in keys.items()}
        if argument not in node and None not in found.values():
            node[argument] = value | found
    return node


def _value_at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def with_values(config: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values.

    Args:
        values: dotted keys -> values, groups of options included.

    >>> with_values({"trainer": {"devices": 1}, "seed": 1}, {"trainer.devices": 8})
    {'trainer': {'devices': 8}, 'seed': 1}
    """
    for dotted, value in values.items():
        key, _, rest = dotted.partition(".")
        config = config | {key: with_values(config.get(key) or {}, {rest: value}) if rest else value}
    return config


def _check_interpolations(config: Any) -> None:
    """A saved config is resolved, but for secrets of the environment. A resolver could make a _target_ of a text."""
    for key, value in flatten(config).items():
        for text in map(str, value) if isinstance(value, list) else [value]:
            if isinstance(text, str) and "${" in re.sub(r"\$\{oc\.env:\w+\}", "", text):
                raise ValueError(f"{key}={text}: a config out of a file may hold no interpolation but ${{oc.env:NAME}}")


def _rename_targets(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: RENAMED_TARGETS.get(v, v) if k == "_target_" else _rename_targets(v) for k, v in config.items()}
    if isinstance(config, list):
        return [_rename_targets(item) for item in config]
    return config
