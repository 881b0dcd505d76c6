"""The protocol: what is measured of a checkpoint, on which images, beside which baselines."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from repel import checkpoints, runs
from repel.config import build_data, build_module, saved
from repel.data.datamodule import ImageData
from repel.data.encoded import Encoded
from repel.data.images import Images
from repel.evaluation.features import encode, raw_pixels, subset
from repel.evaluation.knn import knn_top1
from repel.mistakes import plain

ROWS = {
    "baseline/raw_knn_top1": "raw pixels",
    "baseline/untrained_knn_top1": "untrained encoder",
    "test/last_knn_top1": "trained, last epoch",
    "test/knn_top1": "trained, best on validation",
}


def measure(
    cfg: DictConfig, weights: dict[str, dict[str, Any]], data: ImageData, device: torch.device
) -> dict[str, float]:
    """Test metrics of checkpoints and the baselines; nothing here is chosen by looking at the test split.

    Weighted kNN on features h: all labelled images that are not test images, validation included, are the bank, or
    evaluation.bank of the training images.
    `untrained` is the encoder as it was before the first step, with pretrained weights if the run began from these.

    Args:
        weights: name of a metric -> the checkpoint's contents that it is measured of.

    Returns:
        Metric names -> values; empty when the data has no labels.
    """
    if not data.labelled or data.splits.test.labels is None:
        return {}
    splits = data.splits
    parts = [subset(splits.train.labelled, cfg.evaluation.bank), splits.val.labelled, splits.test.labelled]
    encoder = build_module(cfg).encoder.to(device)  # as the run built it, before its first step

    def top1(features: Callable[[Images | Encoded], tuple[torch.Tensor, torch.Tensor]]) -> float:
        made = [(h, part.labels.to(h.device)[places]) for part in parts for h, places in [features(part)]]
        bank, labels = (torch.cat(pair) for pair in zip(*made[:2], strict=True))
        return knn_top1(bank, labels, *made[2], cfg.evaluation.k, cfg.evaluation.temperature)

    encoded = partial(encode, encoder, normalize=data.normalize, device=device)
    metrics = {"baseline/raw_knn_top1": top1(raw_pixels), "baseline/untrained_knn_top1": top1(encoded)}
    for name, checkpoint in weights.items():
        prefix = "encoder."
        state = checkpoint["state_dict"].items()
        encoder.load_state_dict({k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)})
        metrics[name] = top1(encoded)
    return metrics


def of_run(folder: Path) -> dict[str, Path]:
    """What is measured of a run: its best checkpoint on validation, which it stands for, and its last."""
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    return {"test/last_knn_top1": last, "test/knn_top1": best if best.is_file() else last}


def report(
    cfg: DictConfig, paths: dict[str, Path], device: torch.device, data: ImageData | None = None
) -> dict[str, float]:
    """Measure checkpoints, print the table, return the metrics. The data is read if it is not given."""
    weights = {name: checkpoints.load(path) for name, path in paths.items()}
    if data is None:
        data = build_data(cfg)
        data.setup()
    metrics = measure(cfg, weights, data, device)
    if not metrics:
        print("no labels: there is no label metric to report")
        return {}
    table = Table(title=f"test split, {len(data.splits.test):,} images")
    table.add_column("features")
    table.add_column("epoch", justify="right")
    table.add_column(f"kNN top-1 (k={cfg.evaluation.k}, t={cfg.evaluation.temperature})", justify="right")
    for name, words in ROWS.items():
        if name in metrics:
            epoch = str(weights[name]["epoch"] + 1) if name in weights else ""
            table.add_row(words, epoch, f"{metrics[name]:.4f}")
    Console().print(table)
    return metrics


def device_of(accelerator: str) -> torch.device:
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def finish(cfg: DictConfig, folder: Path, data: ImageData | None) -> float | None:
    """The last step of a run: test metrics of the chosen checkpoint into metrics.json, the terminal and TensorBoard.

    Returns:
        What chose the best checkpoint, more being better: val/knn_top1, or minus val/loss. For a sweep to maximise;
        never a test metric.
    """
    metrics = report(cfg, of_run(folder), device_of(cfg.trainer.accelerator), data)
    runs.add_metrics(folder, metrics)
    step = checkpoints.load(folder / "checkpoints" / "last.ckpt")["global_step"]
    if cfg.logger.get("tensorboard"):
        with SummaryWriter(str(folder / "tensorboard")) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
    return checkpoints.load(of_run(folder)["test/knn_top1"])["callbacks"].get("BestCheckpoint", {}).get("best")


def evaluate(cfg: DictConfig, folder: Path) -> float | None:
    """evaluate.py: the test metrics of a run's chosen checkpoint, or of any checkpoint file, from that file alone."""
    if cfg.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator=gpu: there is no GPU that torch can use; use cpu or auto")
    given = Path(cfg.ckpt).expanduser()
    paths = {"test/knn_top1": given} if given.is_file() else of_run(runs.find(cfg.ckpt))
    config = checkpoints.load(paths["test/knn_top1"])["config"]
    if cfg.data_root is not None:
        config["data"]["root"] = config["data"]["datamodule"]["read"]["root"] = cfg.data_root
    for key in ("k", "temperature", "bank"):
        if cfg.evaluation[key] is not None:
            config["evaluation"][key] = cfg.evaluation[key]
    runs.claim(folder, plain(cfg), [f"ckpt={cfg.ckpt}"])
    metrics = runs.add_metrics(folder, report(saved(config), paths, device_of(cfg.accelerator)))
    return metrics.get("test/knn_top1")
