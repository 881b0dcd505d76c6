"""The end of a run, and evaluate.py: measure checkpoints, write what a report consists of."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from repel.base.collectives import rank, world_size
from repel.base.drawing import attempt, is_drawable
from repel.data.datamodule import PairData
from repel.engine import runs
from repel.engine.configs import load_config, to_container
from repel.engine.data_identity import with_data
from repel.engine.launch import check_devices, start_ranks
from repel.engine.modalities import NOUNS, modality_of, other_modality
from repel.engine.outcomes import one_line
from repel.engine.pretrained import select_device
from repel.evaluation.modality import Plot
from repel.monitoring.objective import CHOOSING, COMPARED
from repel.report import plots
from repel.report.page import Origin, origin_of, write_page
from repel.report.report import LAYERS, Report, make_report, read_checkpoints, run_checkpoints
from repel.report.tensorboard import write_tensorboard

__all__ = ["evaluate", "evaluate_here", "finish"]

CURVES = ("train/loss", "val/loss", *CHOOSING, "val/recall_at_20")
IDENTITY = "repel.model.heads.identity"
PROJECTED = 3000  # points in TensorBoard's projector of a run of version 0.1, whose config does not say


def finish(cfg: DictConfig, folder: Path, data: PairData | None) -> float | None:
    """The last step of a run: its test metrics in metrics.json, evaluation.json, report.html and TensorBoard.

    Returns:
        What chose the best checkpoint, more being better: val/ndcg_at_20, val/knn_top1 or minus val/loss. For a sweep
        to maximize; never a test metric.
    """
    run = to_container(cfg)
    job = {"evaluators": run.get("evaluators"), "layers": ["h"], "evaluation": run["evaluation"]}
    paths = run_checkpoints(folder)
    contents = read_checkpoints(paths)
    report = make_report(cfg, job, paths, contents, select_device(cfg.trainer.accelerator), data, folder)
    if any((job["evaluators"] or {}).values()):
        origins = [origin_of(folder, "What was run")]
        drawn = write_report(folder, folder.name, report, folder / "metrics.csv", origins)
        if cfg.logger.get("tensorboard"):
            points = cfg.evaluation.get("projector", PROJECTED)
            write_tensorboard(folder, contents["last"]["global_step"], report, drawn, points)
    return contents["best"]["callbacks"].get("BestCheckpoint", {}).get("best")


def write_report(folder: Path, title: str, report: Report, history: Path, origins: Sequence[Origin] = ()) -> list[Plot]:
    """metrics.json and evaluation.json in the folder, then the figures and report.html.

    Args:
        history: the run's metrics.csv, if there is one.
        origins: the commands behind the numbers.

    Returns:
        The figures that could be drawn.
    """
    runs.add_metrics(folder, report.metrics)
    records = [m.record() for m in report.measurements]
    runs.write_json(folder / "evaluation.json", {"title": title, "records": records})
    if missing := [name for name in report.classes if not is_drawable(name)]:
        first = one_line(missing[0]).encode(errors="backslashreplace").decode()
        names = first + f" and {len(missing) - 1} more" * bool(missing[1:])
        print(f"note     no font has the letters of {names}: figures show numbers; Noto fonts have many", flush=True)

    def curves() -> Plot | None:
        figure = plots.curves_figure(history, CURVES)
        return None if figure is None else Plot("training", "Training", figure)

    training = plots.draw("training", curves)
    drawn = [plot for what, make in report.drawings if (plot := plots.draw(what, make)) is not None]
    shown = [training, *drawn] if training else drawn
    write_page(folder / "report.html", title, report.measurements, shown, origins)
    return drawn


def evaluate(cfg: DictConfig, folder: Path, overrides: Collection[str] = ()) -> float | None:
    """evaluate.py: a run's checkpoints, or one checkpoint file, from these files alone, on one device or several.

    Args:
        overrides: as typed, without the program's name; see with_data.
    """
    check_devices("", cfg.accelerator, cfg.devices)
    given = Path(cfg.ckpt).expanduser()
    paths = {"checkpoint": given} if given.is_file() else run_checkpoints(runs.find(cfg.ckpt))
    contents = read_checkpoints(paths)
    run = with_data(cfg, next(iter(contents.values()))["config"], overrides)
    load_config(run)
    job = _job(cfg, run)
    job["evaluators"] = _evaluators(job["evaluators"] or {}, run, overrides)
    names = {source: str(path.resolve()) for source, path in paths.items()}
    runs.create(folder, {**job, "run": run, "paths": names}, list(overrides) or [f"ckpt={cfg.ckpt}"])
    if cfg.devices == 1:
        evaluate_here(folder, contents)
    else:
        start_ranks(folder, cfg.devices, "repel.report.evaluate:evaluate_here", shared_cores=False)
    metrics = runs.read_metrics(folder)
    return next((metrics[name] for name in COMPARED if name in metrics), None)


def _job(cfg: DictConfig, run: dict[str, Any]) -> dict[str, Any]:
    """The command's config, with the run's own options of `evaluation` where the command has null."""
    own = {key: value for key, value in run["evaluation"].items() if cfg.evaluation.get(key, 0) is None}
    if cfg.get("data") is not None and cfg.evaluation.bank is None:
        own["bank"] = run["data"]["bank"]  # of the other data, which may be much larger
    job = to_container(OmegaConf.merge(cfg, {"evaluation": own}))
    pairs = modality_of(run["data"]["datamodule"]["read"]) == "interactions"
    if pairs and job["layers"] == list(LAYERS) and run["head"]["_target_"] == IDENTITY:
        job["layers"] = ["h"]  # z is the same
    if unknown := [layer for layer in job["layers"] if layer not in LAYERS]:
        raise ValueError(f"layers must be of {', '.join(LAYERS)}, got {unknown[0]!r}")
    return job


def _evaluators(nodes: dict[str, Any], run: dict[str, Any], overrides: Collection[str]) -> dict[str, Any]:
    """The chosen evaluators, less those of the default list that are for another kind of data than the run's.

    Pairs of users and items have no labels: of the default list, only what is made for them is kept.

    Raises:
        ValueError: one for another kind of data was typed.
    """
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    kind = modality_of(run["data"]["datamodule"]["read"])
    others = other_modality(run, nodes)
    for name in others:
        ours, theirs = (NOUNS[str(room)] for room in (kind, modality_of(nodes[name])))
        if "evaluators" in keys or any(f"{key}.".startswith(f"evaluators.{name}.") for key in keys):
            raise ValueError(f"evaluators={name} is for {theirs}, and the data is {ours}; leave it out")
        if "interactions" not in (kind, modality_of(nodes[name])):
            print(f"note     {name} is left out: it is for {theirs}, and the data is {ours}")
    if kind == "interactions" and "evaluators" not in keys:
        others += [name for name, node in nodes.items() if modality_of(node) is None]
    return {name: node for name, node in nodes.items() if name not in others}


def evaluate_here(folder: Path, contents: dict[str, dict[str, Any]] | None = None) -> None:
    """This rank's part of evaluate.py: the ranks share out what is to be encoded; all else is done on all ranks alike.

    Args:
        folder: of the evaluation, with its config.
        contents: of the checkpoints, where they have been read already.
    """
    job = runs.read_config(folder)
    paths = {source: Path(path) for source, path in job["paths"].items()}
    device = select_device(job["accelerator"])
    if device.type == "cuda" and world_size() > 1:
        device = torch.device("cuda", rank())
        torch.cuda.set_device(device)
    contents = contents or read_checkpoints(paths)
    report = make_report(load_config(job["run"]), job, paths, contents, device, None, folder)
    if rank() == 0:
        run = next(iter(paths.values())).parents[1]
        reader, root = job["run"]["data"]["datamodule"]["read"]["_target_"], job["run"]["data"].get("root")
        title = f"{run.name} on {reader.rsplit('.', 1)[-1]}" + f" {root}" * bool(root)
        origins = [origin_of(folder, "What was run")]
        if (run / "config.yaml").is_file():  # a checkpoint may have come alone
            trained = attempt("the training's command", lambda: origin_of(run, "How it was trained"))
            origins += [trained] if trained else []
        write_report(folder, title, report, run / "metrics.csv", origins)
