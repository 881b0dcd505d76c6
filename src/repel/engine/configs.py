"""Configs as files: what was renamed since they were written."""

from typing import Any

RENAMED_TARGETS = {  # in configs of the first edition (0.1), those inside its checkpoints included
    "repel.anneal.Anneal": "repel.model.anneal.Anneal",
    "repel.callbacks.PairsGrid": "repel.images.contact_sheet.PairsGrid",
    "repel.callbacks.Progress": "repel.monitoring.progress.Progress",
    "repel.callbacks.Speed": "repel.monitoring.progress.Speed",
    "repel.checkpoints.BestCheckpoint": "repel.engine.checkpoints.BestCheckpoint",
    "repel.checkpoints.LastCheckpoint": "repel.engine.checkpoints.LastCheckpoint",
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
    "repel.evaluation.spread.Spread": "repel.evaluation.geometry_evaluator.Spread",
    "repel.evaluation.trained.FineTune": "repel.images.finetune.FineTune",
    "repel.evaluation.trained.SGDProbe": "repel.images.finetune.SGDProbe",
    "repel.heads.linear": "repel.model.heads.linear",
    "repel.heads.mlp": "repel.model.heads.mlp",
    "repel.health.Health": "repel.monitoring.health.Health",
    "repel.loggers.CSVHistory": "repel.monitoring.loggers.CSVHistory",
    "repel.loggers.wandb_logger": "repel.monitoring.loggers.wandb_logger",
    "repel.monitor.Monitor": "repel.monitoring.monitor.Monitor",
    "repel.optim.constant": "repel.model.optim.constant",
    "repel.optim.cosine": "repel.model.optim.cosine",
    "repel.pruning.Pruning": "repel.cli.optuna_pruning.Pruning",
    "repel.study.TakeUp": "repel.cli.optuna_study.TakeUp",
    "repel.views.augment.Augment": "repel.images.views.augment.Augment",
    "repel.views.normalize.Normalize": "repel.images.views.normalize.Normalize",
    "repel.views.views.Views": "repel.images.views.views.Views",
}


def with_new_names(config: Any) -> Any:
    """A config with today's _target_ names in place of those under which an earlier edition wrote it."""
    if isinstance(config, dict):
        return {k: RENAMED_TARGETS.get(v, v) if k == "_target_" else with_new_names(v) for k, v in config.items()}
    if isinstance(config, list):
        return [with_new_names(item) for item in config]
    return config
