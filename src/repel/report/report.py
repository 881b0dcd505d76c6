"""A report: rows of features, measured by the protocol, as a table, JSON, one HTML page and TensorBoard."""

import textwrap
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from repel.base.collectives import rank, world_size
from repel.cli.checks import plain
from repel.data.datamodule import PairData
from repel.engine import checkpoints, runs
from repel.engine.build import build_data, build_evaluators, build_module, saved, with_data
from repel.engine.launch import check_devices, start_ranks
from repel.evaluation.features import encode, raw_pixels
from repel.evaluation.protocol import Network, Part, Row, measure
from repel.images import figures as pictures
from repel.report.page import write_page

LAYERS = ("h", "z")
PROJECTED, THUMBNAIL = 1000, 32  # images in TensorBoard's projector, and their side at most


def rows_of(
    cfg: DictConfig, weights: dict[str, dict[str, Any]], layers: list[str], data: PairData, device: torch.device
) -> list[Row]:
    """The baselines, then checkpoints: raw pixels, the untrained encoder, pretrained weights where the run has them.

    Args:
        cfg: the run's config.
        weights: prefix of the metrics -> a checkpoint's contents.
        layers: h, z or both, of the checkpoints; of `best`, or the only one, alone where it is z.
    """

    def network(state: dict[str, torch.Tensor] | None, layer: str = "h", pretrained: bool = True) -> Network:
        module = build_module(cfg if pretrained else without_weights(cfg))
        if state is not None:
            parts = {"encoder": module.encoder, "head": module.head}
            for part, owner in parts.items():
                own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
                owner.load_state_dict(own)
        else:  # a checkpoint holds what the encoder knows of the data
            module.give_data_info(data.splits.train.info())
        encoder = module.encoder if layer == "h" else nn.Sequential(module.encoder, module.head)
        encoder = encoder.to(device).eval()

        def encoded(images):
            return encode(encoder, images, data.normalize, device)

        return Network(encoded, encoder if layer == "h" else None, data.normalize, device)

    def pixels() -> Network:
        def encoded(images):
            x, places = raw_pixels(images)
            return x.to(device), places

        return Network(encoded, None, data.normalize, device)

    rows = [Row("baseline/raw_", "raw pixels", None, "pixels", pixels)]
    rows.append(Row("baseline/untrained_", "untrained encoder", None, "h", lambda: network(None, pretrained=False)))
    if has_weights(cfg):
        rows.append(Row("baseline/pretrained_", "pretrained weights", None, "h", lambda: network(None)))
    names = {"test/last_": "last epoch", "test/": "best on validation"}
    for layer in layers:
        for prefix, contents in weights.items():
            if layer == "z" and prefix != "test/":
                continue
            make = lambda state=contents["state_dict"], layer=layer: network(state, layer)  # noqa: E731
            words = names[prefix] if len(weights) > 1 else "checkpoint"
            rows.append(Row(prefix + "z_" * (layer == "z"), words, contents["epoch"] + 1, layer, make))
    return rows


def has_weights(cfg: DictConfig) -> bool:
    """Whether the run began from someone's weights."""
    return bool(cfg.encoder.get("weights") or cfg.encoder.get("pretrained"))


def without_weights(cfg: DictConfig) -> DictConfig:
    off = {key: value for key, value in (("weights", None), ("pretrained", False)) if key in cfg.encoder}
    return OmegaConf.merge(cfg, {"encoder": off})


def of_run(folder: Path) -> dict[str, Path]:
    """What is measured of a run: its last checkpoint, and its best on validation, which it stands for."""
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    return {"test/last_": last, "test/": best if best.is_file() else last}


def report(
    cfg: DictConfig, job: dict[str, Any], paths: dict[str, Path], device: torch.device, data: PairData | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure checkpoints and print the table.

    Args:
        cfg: the run's config.
        job: `evaluators`, `layers`, and `evaluation` with the bank and the map.
        paths: prefix of the metrics -> checkpoint.
        data: read if it is not given.

    Returns:
        Records, see protocol.measure, and pictures by name. Both are empty for data without labels.
    """
    weights = {prefix: checkpoints.load(path) for prefix, path in paths.items()}
    evaluators = build_evaluators(job["evaluators"])
    options = job["evaluation"]
    if data is None:
        data = build_data(cfg)
        data.setup()
    if not data.labelled or data.splits.test.labels is None or not len(data.splits.test.labelled):
        print("no labels: there is no label metric to report")
        return [], {}
    drawn: dict[str, Any] = {}

    def look(row: Row, train: Part, val: Part, test: Part) -> None:
        if row.prefix == "test/":
            drawn["validation"] = val, data.splits.classes
            drawn.update(pictures_of(train, test, data.splits.classes, options["map"], cfg.seed))

    rows = rows_of(cfg, weights, job["layers"], data, device)
    records = measure(rows, evaluators, data, options["bank"], cfg.seed, look if rank() == 0 else None)
    if rank() == 0:
        print_table(records, f"test split, {len(data.splits.test.labelled):,} images")
        drawn["corruptions"] = pictures.corruption_figure(records)
    return records, drawn


def pictures_of(train: Part, test: Part, classes: list[str], method: str | None, seed: int) -> dict[str, Any]:
    drawn = {
        "neighbours": pictures.neighbour_sheet((test.x, test.y, test.images), (train.x, train.y, train.images), classes)
    }
    if method:
        drawn["map"] = pictures.map_figure(test.x, test.y, classes, method, seed)
    return drawn | {"similarities": pictures.similarity_figure(test.x, test.y)}


def column(record: dict[str, Any]) -> str:
    """A row of features, as the head of its column in the tables."""
    epoch = "" if record["epoch"] is None else f", epoch {record['epoch']}"
    return "\n".join(textwrap.wrap(f"{record['row']}{epoch}, {record['layer']}", 13))


def cells(records: list[dict[str, Any]]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Columns, and measurement in words -> column -> value, of the test split."""
    heads: list[str] = []
    found: dict[str, dict[str, str]] = {}
    for r in records:
        if r["split"] != "test":
            continue
        if column(r) not in heads:
            heads.append(column(r))
        spread = r["settings"].get("ci95") or r["settings"].get("std")
        words = r["words"] if r["task"] == "class" else f"{r['task']}: {r['words']}"
        found.setdefault(words, {})[column(r)] = f"{r['value']:.4f}" + (f" ±{spread:.3f}" if spread else "")
    return heads, found


def print_table(records: list[dict[str, Any]], title: str) -> None:
    heads, found = cells(records)
    table = Table(title=title)
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    for words, values in found.items():
        table.add_row(words, *(values.get(head, "") for head in heads))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(table)


def flat(records: list[dict[str, Any]]) -> dict[str, float]:
    """Metric names -> values, as metrics.json has them."""
    return {r["metric"]: r["value"] for r in records}


def device_of(accelerator: str) -> torch.device:
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def leave(folder: Path, title: str, records: list[dict[str, Any]], drawn: dict[str, Any], history: Path | None) -> None:
    """metrics.json, evaluation.json and report.html in the folder."""
    runs.add_metrics(folder, flat(records))
    runs.write_json(folder / "evaluation.json", {"title": title, "records": records})
    shown = {name: picture for name, picture in drawn.items() if name != "validation" and picture is not None}
    if history is not None and (curves := pictures.curves_figure(history, CURVES)) is not None:
        shown = {"training": curves} | shown
    heads, found = cells(records)
    write_page(folder / "report.html", title, heads, found, records, {n: pictures.png(p) for n, p in shown.items()})


CURVES = ("train/loss", "val/loss", "val/knn_top1")


def finish(cfg: DictConfig, folder: Path, data: PairData | None) -> float | None:
    """The last step of a run: its test metrics in metrics.json, evaluation.json, report.html and TensorBoard.

    Returns:
        What chose the best checkpoint, more being better: val/knn_top1, or minus val/loss. For a sweep to maximise;
        never a test metric.
    """
    job = plain(cfg)
    job = {"evaluators": job.get("evaluators"), "layers": ["h"], "evaluation": job["evaluation"]}
    records, drawn = report(cfg, job, of_run(folder), device_of(cfg.trainer.accelerator), data)
    if records:
        leave(folder, folder.name, records, drawn, folder / "metrics.csv")
    step = checkpoints.load(folder / "checkpoints" / "last.ckpt")["global_step"]
    if cfg.logger.get("tensorboard") and records:
        with SummaryWriter(str(folder / "tensorboard")) as writer:
            to_tensorboard(writer, step, records, drawn)
    return checkpoints.load(of_run(folder)["test/"])["callbacks"].get("BestCheckpoint", {}).get("best")


def to_tensorboard(writer: SummaryWriter, step: int, records: list[dict[str, Any]], drawn: dict[str, Any]) -> None:
    """Final scalars, the sheet of neighbours, the map, and the embedding of validation images for the projector."""
    for name, value in flat(records).items():
        writer.add_scalar(name, value, step)
    for name in ("neighbours", "map", "similarities"):
        if name in drawn:
            writer.add_image(f"embedding/{name}", pictures.array(drawn[name]), step, dataformats="HWC")
    val, classes = drawn["validation"]
    few = pictures.evenly(len(val.y), PROJECTED)
    images = pictures.thumbnails(val.images, few, THUMBNAIL)
    names = [pictures.name(classes, label) for label in val.y[few].tolist()]
    writer.add_embedding(val.x[few], names, images, step, tag="validation")


def evaluate(cfg: DictConfig, folder: Path) -> float | None:
    """evaluate.py: a run's checkpoints, or one checkpoint file, from these files alone, on one device or several."""
    check_devices("", cfg.accelerator, cfg.devices)
    given = Path(cfg.ckpt).expanduser()
    paths = {"test/": given} if given.is_file() else of_run(runs.find(cfg.ckpt))
    run = with_data(cfg, checkpoints.load(paths["test/"])["config"])
    saved(run)
    own = {key: value for key, value in run["evaluation"].items() if cfg.evaluation.get(key, 0) is None}
    if cfg.get("data") is not None and cfg.evaluation.bank is None:
        own["bank"] = run["data"]["bank"]  # of the other data, which may be much larger
    job = plain(OmegaConf.merge(cfg, {"evaluation": own}))
    if unknown := [layer for layer in job["layers"] if layer not in LAYERS]:
        raise ValueError(f"layers must be of {', '.join(LAYERS)}, got {unknown[0]!r}")
    runs.claim(
        folder, {**job, "run": run, "paths": {k: str(p.resolve()) for k, p in paths.items()}}, [f"ckpt={cfg.ckpt}"]
    )
    if cfg.devices == 1:
        evaluate_here(folder)
    else:
        start_ranks(folder, cfg.devices, "evaluate")
    metrics = runs.read_metrics(folder)
    return metrics.get("test/knn_top1")


def evaluate_here(folder: Path) -> None:
    """This rank's part of evaluate.py: images are shared out, everything else is done on all ranks alike."""
    job = runs.read_config(folder)
    paths = {prefix: Path(path) for prefix, path in job["paths"].items()}
    device = device_of(job["accelerator"])
    if device.type == "cuda" and world_size() > 1:
        device = torch.device("cuda", rank())
        torch.cuda.set_device(device)
    records, drawn = report(saved(job["run"]), job, paths, device, None)
    if rank() == 0:
        run = paths["test/"].parents[1]
        reader, root = job["run"]["data"]["datamodule"]["read"]["_target_"], job["run"]["data"].get("root")
        title = f"{run.name} on {reader.rsplit('.', 1)[-1]}" + f" {root}" * bool(root)
        leave(folder, title, records, drawn, run / "metrics.csv")
