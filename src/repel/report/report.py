"""Which rows a report has: baselines and checkpoints, measured by the evaluation protocol."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import nn

from repel.base.collectives import rank
from repel.base.progress import Progress
from repel.data.datamodule import PairData
from repel.data.samples import give_info
from repel.engine import checkpoint_io
from repel.engine.build import build_evaluators, build_module
from repel.engine.configs import load_config, to_container
from repel.engine.data_identity import read_to_evaluate
from repel.engine.modalities import modality_of
from repel.engine.notes import notes_on_test_labels
from repel.engine.pretrained import build_pretrained, without_weights
from repel.evaluation.feature_files import IN_MEMORY, FeatureFiles
from repel.evaluation.features import Encoded, encode_unless_known
from repel.evaluation.modality import Baseline
from repel.evaluation.protocol import Measurement, Network, Part, ReportRow, measure
from repel.report.drawings import Drawing, feature_drawings, shown_drawings
from repel.report.table import make_table, print_table

__all__ = ["LAYERS", "Report", "headline_of", "make_report", "read_checkpoints", "run_checkpoints"]

LAYERS = ("h", "z")
LABELS = {"last": "last epoch", "best": "best on validation", "checkpoint": "checkpoint"}


class Report(NamedTuple):
    """Measurements; names of figures, and what draws them once the numbers are written.

    The validation split with the headline's features, or None; names of the classes.

    All are empty without evaluators; for data without labels, all but measurements by evaluators that need none.
    """

    measurements: list[Measurement]
    drawings: list[Drawing]
    validation: Part | None
    classes: list[str]

    @property
    def metrics(self) -> dict[str, float]:
        """Metric name -> value, as metrics.json has them."""
        return {m.metric: m.score.value for m in self.measurements}


def run_checkpoints(folder: Path) -> dict[str, Path]:
    """source -> file: a run's last checkpoint, and its best on validation, or the last where there is no other."""
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    return {"last": last, "best": best if best.is_file() else last}


def headline_of(sources: dict[str, Any], checkpoint: str | None) -> str:
    """The source whose metrics are called test/x: of a run evaluation.checkpoint, or a single checkpoint.

    None: the best, as it was for runs whose config has no evaluation.checkpoint.
    """
    return wanted if (wanted := checkpoint or "best") in sources else next(iter(sources))


def read_checkpoints(paths: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """source -> a checkpoint's contents; each file is read once."""
    contents = {path: checkpoint_io.load(path) for path in dict.fromkeys(paths.values())}
    return {source: contents[path] for source, path in paths.items()}


def make_report(
    cfg: DictConfig,
    job: dict[str, Any],
    paths: dict[str, Path],
    contents: dict[str, dict[str, Any]],
    device: torch.device,
    data: PairData | None,
    folder: Path | None = None,
) -> Report:
    """Measure baselines and checkpoints, and print the table.

    Args:
        cfg: the run's config.
        job: `evaluators`, `layers`, `evaluation` with `bank`, `map` and `checkpoint`, and `data` where it is not the
            run's own.
        paths: source -> checkpoint file, see run_checkpoints.
        contents: source -> its contents.
        data: read here if None.
        folder: where features go that do not fit into memory; None: they stay there all the same.
    """
    evaluators = build_evaluators(job["evaluators"])
    if not evaluators:
        some = "knn,linear" if modality_of(cfg.data.datamodule.read) != "interactions" else "ranking"
        print(f"no evaluators: nothing is measured; 'evaluators=[{some}]' measures, also by evaluate.py later")
        return Report([], [], None, [])
    options = job["evaluation"]
    if data is None:
        data = read_to_evaluate(cfg, next(iter(contents.values())), job.get("data"))
    drawings: list[Drawing] = []
    labelled = _has_labels(data, [name for name, one in evaluators.items() if one.needs_labels])
    evaluators = {name: one for name, one in evaluators.items() if labelled or not one.needs_labels}
    if not evaluators:
        return Report([], [], None, [])
    headline = headline_of(contents, options.get("checkpoint"))
    of_headline, first = _OfHeadline(data, labelled, options["map"], cfg.seed), rank() == 0
    files = None if folder is None else _feature_files(options, folder, device)
    rows = report_rows(cfg, paths, contents, headline, job["layers"], data, device, options["bank"], files)
    with Progress("evaluation", first) as progress:
        on_row = of_headline.keep if first or not labelled else None  # without labels all ranks encode
        measurements = measure(rows, evaluators, data, options["bank"], cfg.seed, on_row, progress, labelled)
    if first:
        tested = data.splits.test.labelled if labelled else data.splits.test
        for note in notes_on_test_labels(data, options["bank"]):
            print(f"note     {note}")
        print_table(make_table(measurements), f"test split, {len(tested):,} {tested.modality.noun}")
        drawings += [(name, partial(evaluator.plot, measurements)) for name, evaluator in evaluators.items()]
    return Report(measurements, of_headline.drawings + drawings, of_headline.validation, of_headline.classes)


def _feature_files(options: dict[str, Any], folder: Path, device: torch.device) -> FeatureFiles:
    """Options of a run from before there were these are null, or not there."""
    limit, dtype = (options.get(key) for key in ("memory", "file_dtype"))
    return FeatureFiles(folder, IN_MEMORY if limit is None else limit, dtype or "float32", device)


class _OfHeadline:
    """What a report shows of the headline's features: drawings, the validation split, names of the classes."""

    def __init__(self, data: PairData, labelled: bool, method: str | None, seed: int):
        self.splits, self.labelled, self.method, self.seed = data.splits, labelled, method, seed
        self.drawings: list[Drawing] = []
        self.validation: Part | None = None
        self.classes = data.splits.classes

    def keep(self, row: ReportRow, train: Part, val: Part, test: Part) -> None:
        if not row.headline or row.layer != "h":
            return
        if self.labelled:
            self.validation = val
            self.drawings += feature_drawings(train, test, self.classes, self.method, self.seed)
        elif (shown := self.splits.test.modality.shown(row.make_network(), self.splits)) is not None:
            self.validation, self.classes = shown.part, shown.classes
            self.drawings += shown_drawings(shown, self.method, self.seed)


def _has_labels(data: PairData, needed_by: list[str]) -> bool:
    """Whether every split has labels; where one has none and evaluators need them, a line says so."""
    test = data.splits.test
    if data.labelled and test.labels is not None and len(test.labelled):
        return True
    one = "" if data.single_class is None else f" (all training samples are of one class, {data.single_class})"
    if needed_by or one:
        left_out = f", and {', '.join(needed_by)} left out" * bool(needed_by)
        print(f"no labels{one}: there is no label metric to report{left_out}")
    return False


def report_rows(
    cfg: DictConfig,
    paths: dict[str, Path],
    contents: dict[str, dict[str, Any]],
    headline: str,
    layers: list[str],
    data: PairData,
    device: torch.device,
    bank: int | None = None,
    files: FeatureFiles | None = None,
) -> list[ReportRow]:
    """The data's baselines, the untrained encoder, pretrained weights where the run started from some; checkpoints.

    Args:
        cfg: the run's config.
        paths, contents: as for make_report.
        headline: the source whose metrics are called test/x.
        layers: h, z or both, of the checkpoints; z of the headline only.
        bank: baselines are fitted to at most so many training samples.
        files: where features go that do not fit into memory; None: all fit.
    """

    def initial(config: DictConfig) -> Network:
        module = build_module(config)
        give_info(module.encoder, train.info())  # a checkpoint has it already
        return _network(module.encoder, "h", data, device, files)

    def trained(source: str, layer: str) -> Network:
        network = build_pretrained(contents[source], paths[source])
        encoder = network.encoder if layer == "h" else nn.Sequential(network.encoder, network.head)
        return _network(encoder, layer, data, device, files, data.encoded if layer == "h" else ())

    config, train, val = to_container(cfg), data.splits.train, data.splits.val
    rows = [
        ReportRow(b.source, b.label, b.layer, partial(_baseline_network, b, data, device, files))
        for b in train.modality.baselines(train, val, bank)
    ]
    random = without_weights(config)
    untrained = cfg if random == config else load_config(random)
    rows.append(ReportRow("untrained", "untrained encoder", "h", lambda: initial(untrained)))
    if cfg.encoder.get("weights") or cfg.encoder.get("pretrained"):
        rows.append(ReportRow("pretrained", "pretrained weights", "h", lambda: initial(cfg)))
    same = "checkpoints" if _have_same_weights(list(contents.values())) else None
    for layer in layers:
        for source in contents if layer == "h" else [headline]:
            make: Callable[[], Network] = partial(trained, source, layer)
            epoch, label = contents[source]["epoch"] + 1, LABELS[source]
            if source == "best" and paths.get("best") == paths.get("last") is not None:
                label = "not validated: last epoch"
            shared = same if layer == "h" else None
            rows.append(ReportRow(source, label, layer, make, epoch, source == headline, shared))
    return rows


def _have_same_weights(contents: list[dict[str, Any]]) -> bool:
    """Whether these are several checkpoints that differ in no weight, as where the last epoch is the best."""
    first, *others = (one["state_dict"] for one in contents)
    return bool(others) and all(
        other is first or all(torch.equal(tensor, other[name]) for name, tensor in first.items()) for other in others
    )


def _network(
    encoder: nn.Module,
    layer: str,
    data: PairData,
    device: torch.device,
    files: FeatureFiles | None,
    known: Sequence[Encoded] = (),
) -> Network:
    encoder = encoder.to(device).eval()

    def encode_samples(samples):
        return encode_unless_known(encoder, samples, data.normalize, device, known)

    return Network(encode_samples, encoder if layer == "h" else None, data.normalize, device, files=files)


def _baseline_network(baseline: Baseline, data: PairData, device: torch.device, files: FeatureFiles | None) -> Network:
    def encode_samples(samples):
        assert baseline.encode is not None, "evaluators that need features are not given a scorer"
        x, places = baseline.encode(samples)
        return x if x.is_sparse else x.to(device), places  # not every device knows sparse tensors

    scorer, settings = (None, {}) if baseline.scorer is None else baseline.scorer(device)
    return Network(encode_samples, None, data.normalize, device, scorer, settings, files)
