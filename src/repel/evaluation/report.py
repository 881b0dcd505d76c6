"""The protocol: what is measured of a checkpoint, on which images, beside which baselines."""

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
from repel.data.images import Images
from repel.evaluation.features import encode, raw_pixels
from repel.evaluation.knn import knn_top1
from repel.mistakes import plain

ROWS = {
    "baseline/raw_knn_top1": "raw pixels",
    "baseline/untrained_knn_top1": "untrained encoder",
    "test/knn_top1": "trained encoder",
}


def measure(cfg: DictConfig, checkpoint: dict[str, Any], data: ImageData, device: torch.device) -> dict[str, float]:
    """Test metrics of a checkpoint and the baselines; nothing here is chosen by looking at the test split.

    Weighted kNN on features h: all labelled images that are not test images, validation included, are the bank.
    `untrained` is the encoder as it was before the first step, with pretrained weights if the run began from these.

    Returns:
        Metric names -> values; empty when the data has no labels.
    """
    if not data.labelled or data.splits.test.labels is None:
        return {}
    bank = join(data.splits.train.labelled, data.splits.val.labelled)
    queries = data.splits.test.labelled
    encoder = build_module(cfg).encoder.to(device)  # as the run built it, before its first step

    def top1(features: list[torch.Tensor]) -> float:
        labels = [part.labels.to(features[0].device) for part in (bank, queries)]
        return knn_top1(features[0], labels[0], features[1], labels[1], cfg.evaluation.k, cfg.evaluation.temperature)

    metrics = {"baseline/raw_knn_top1": top1([raw_pixels(part) for part in (bank, queries)])}
    untrained = [encode(encoder, part, data.normalize, device) for part in (bank, queries)]
    metrics["baseline/untrained_knn_top1"] = top1(untrained)
    prefix = "encoder."
    weights = checkpoint["state_dict"].items()
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in weights if k.startswith(prefix)})
    metrics["test/knn_top1"] = top1([encode(encoder, part, data.normalize, device) for part in (bank, queries)])
    return metrics


def join(a: Images, b: Images) -> Images:
    return Images(torch.cat([a.pixels, b.pixels]), torch.cat([a.labels, b.labels]))


def chosen(folder: Path) -> Path:
    """The checkpoint a run stands for: the best on validation, or the last where none was validated."""
    best = folder / "checkpoints" / "best.ckpt"
    return best if best.is_file() else folder / "checkpoints" / "last.ckpt"


def report(cfg: DictConfig, path: Path, device: torch.device, data: ImageData | None = None) -> dict[str, float]:
    """Measure the checkpoint at path, print the table, return the metrics. The data is read if it is not given."""
    checkpoint = checkpoints.load(path)
    if data is None:
        data = build_data(cfg)
        data.setup()
    metrics = measure(cfg, checkpoint, data, device)
    if not metrics:
        print("no labels: there is no label metric to report")
        return {}
    k, t = cfg.evaluation.k, cfg.evaluation.temperature
    table = Table(title=f"test split, {len(data.splits.test):,} images; {path.name} of epoch {checkpoint['epoch'] + 1}")
    table.add_column("features")
    table.add_column(f"kNN top-1 (k={k}, t={t})", justify="right")
    for name, words in ROWS.items():
        table.add_row(words, f"{metrics[name]:.4f}")
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
    metrics = report(cfg, chosen(folder), device_of(cfg.trainer.accelerator), data)
    runs.add_metrics(folder, metrics)
    step = checkpoints.load(folder / "checkpoints" / "last.ckpt")["global_step"]
    if cfg.logger.get("tensorboard"):
        with SummaryWriter(str(folder / "tensorboard")) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
    return checkpoints.load(chosen(folder))["callbacks"].get("BestCheckpoint", {}).get("best")


def evaluate(cfg: DictConfig, folder: Path) -> float | None:
    """evaluate.py: the test metrics of a run's chosen checkpoint, or of any checkpoint file, from that file alone."""
    if cfg.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator=gpu: there is no GPU that torch can use; use cpu or auto")
    given = Path(cfg.ckpt).expanduser()
    path = given if given.is_file() else chosen(runs.find(cfg.ckpt))
    config = checkpoints.load(path)["config"]
    if cfg.data_root is not None:
        config["data"]["root"] = config["data"]["datamodule"]["read"]["root"] = cfg.data_root
    for key in ("k", "temperature"):
        if cfg.evaluation[key] is not None:
            config["evaluation"][key] = cfg.evaluation[key]
    runs.claim(folder, plain(cfg), [f"ckpt={cfg.ckpt}"])
    metrics = runs.add_metrics(folder, report(saved(config), path, device_of(cfg.accelerator)))
    return metrics.get("test/knn_top1")
