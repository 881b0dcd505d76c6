"""What TensorBoard shows of a run: curves in order of interest, and the hyperparameters that were chosen."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import text as text_summary

__all__ = [
    "METRICS",
    "RANKING_METRICS",
    "TensorBoard",
    "add_text",
    "chosen_values",
    "event_folder",
    "log_run",
    "tag_of",
]

GROUPS = {"train": "1_train", "val": "2_val", "test": "3_test"}  # TensorBoard sorts groups by name
METRICS = ("test/knn_top1", "test/linear_top1", "val/knn_top1", "val/loss", "train/loss")  # of HPARAMS
RANKING_METRICS = ("test/ndcg_at_20", "test/recall_at_20", "val/ndcg_at_20", "val/loss", "train/loss")
CHOICES = ("loss", "negatives", "views", "data", "encoder", "target", "optimizer")  # HPARAMS has these of every run
NUMBERS = ("loss.temperature", "optimizer.lr", "data.batch_size", "trainer.max_epochs", "seed")  # and these
ASIDE = ("resume", "data_root", "name", "sweep", "hydra", "logger", "callbacks", "evaluators", "evaluation")
WORDS = ("trainer.precision", "trainer.devices")  # numbers and words: a column has one kind


class TensorBoard(TensorBoardLogger):
    """Event files in the run folder itself: with --logdir runs, TensorBoard calls the run `<job>/<run>`.

    Groups of curves are `1_train`, `2_val` and `3_test`, then the diagnostics; metrics.csv keeps the plain names.

    Args:
        save_dir: the run folder.
        purge_step: curves from this step on are dropped, as these steps are about to be trained again; None: a new run.
    """

    def __init__(self, save_dir: str, purge_step: int | None = None):
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=purge_step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        super().log_metrics({tag_of(name): value for name, value in metrics.items()}, step)  # type: ignore[misc]

    @rank_zero_only
    def save(self) -> None:
        """Without Lightning's hparams.yaml: the run's config.yaml has them."""
        self.experiment.flush()


def tag_of(name: str) -> str:
    """A metric's name in TensorBoard, so that groups come in the order train, val, test, diagnostics.

    >>> [tag_of(name) for name in ("train/loss", "val/h_uniformity", "lr-AdamW/pg1", "geometry/alignment")]
    ['1_train/loss', 'geometry/val_h_uniformity', '1_train/lr-AdamW_pg1', 'geometry/alignment']
    """
    if name.startswith("val/h_"):  # geometry of the validation features
        return f"geometry/{name.replace('/', '_')}"
    if name.startswith("lr-"):
        return f"{GROUPS['train']}/{name.replace('/', '_')}"
    if name == "epoch":  # which Lightning logs with everything
        return "speed/epoch"
    group, slash, rest = name.partition("/")
    return f"{GROUPS.get(group, group)}{slash}{rest}"


def event_folder(folder: Path) -> Path:
    """Where a run's events are: the run folder; runs of version 0.1 have, and keep, a folder `tensorboard` in it."""
    return old if (old := folder / "tensorboard").is_dir() else folder


def chosen_values(values: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """HPARAMS of a run, by column: what was typed, then what is looked at in every run.

    Values that are null or auto are left out: TensorBoard's plots take no words in a column of numbers.

    Args:
        values: the run's config by dotted keys.
        environment: environment.json, of which `overrides`, `choices` and `varied` are read.
    """
    choices, overrides = environment.get("choices", {}), environment.get("overrides", ())
    pairs = (override.partition("=") for override in overrides if not override.startswith("~"))
    typed = {key.lstrip("+"): text for key, _, text in pairs if key.lstrip("+").split(".")[0] not in ASIDE}
    found = {}
    for key in dict.fromkeys([*typed, *CHOICES, *NUMBERS]):
        value = choices.get(key, _value(values, key, typed.get(key)))
        if value is None or value == "auto":
            continue
        plain = isinstance(value, bool | int | float | str) and key not in WORDS
        found[key] = value if plain else str(value)
    return found | {"overrides": " ".join(overrides)}


def _value(values: Mapping[str, Any], key: str, typed: str | None) -> Any:
    """A key's value; the class of a group; what was typed for a group without a class."""
    if key in values:
        return values[key]
    target = values.get(f"{key}._target_")
    return typed if target is None else target.rsplit(".", 1)[-1]


def log_run(logger: TensorBoardLogger, values: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """What was run, from the start: the columns and metrics of HPARAMS; command and config under TEXT.

    Args:
        values, environment: as for chosen_values.
    """
    chosen = chosen_values(values, environment)
    typed = [override.lstrip("+").split("=")[0] for override in environment.get("overrides", ())]
    first = environment.get("varied") or typed  # TensorBoard shows those first that differ
    columns = [
        api_pb2.HParamInfo(name=name, type=_type(value), differs=name in first) for name, value in chosen.items()
    ]
    shown = RANKING_METRICS if "evaluators.ranking._target_" in values else METRICS
    tags = {name: tag_of(name) if isinstance(logger, TensorBoard) else name for name in shown}
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tags[n]), display_name=n) for n in shown]
    start = SessionStartInfo()
    for name, value in chosen.items():
        field = (
            "bool_value" if isinstance(value, bool) else "string_value" if isinstance(value, str) else "number_value"
        )
        setattr(start.hparams[name], field, value)
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)
    _add(logger, metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
    _add(logger, metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
    config = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    command = shlex.join(environment.get("command", ()))
    text = f"    {command}\n\ncommit {environment.get('git_commit')}\n\n```\n{config}```\n"
    add_text(logger.experiment, "run/config", text, 0)


def add_text(writer: SummaryWriter, tag: str, text: str, step: int) -> None:
    """Markdown under TEXT, by this tag: the writer's own method would add a word to it."""
    summary = text_summary(tag, text)
    summary.value[0].tag = tag
    writer.file_writer.add_summary(summary, step)  # type: ignore[attr-defined]


def _type(value: bool | float | str) -> int:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def _add(logger: TensorBoardLogger, tag: str, content: HParamsPluginData) -> None:
    data = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))
    logger.experiment.file_writer.add_summary(Summary(value=[value]))
