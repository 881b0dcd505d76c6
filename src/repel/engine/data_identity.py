"""A run's data, read again: at its place of now, without what was trained on where something is tested."""

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from repel.base.collectives import rank
from repel.data.datamodule import PairData
from repel.data.identity import changes, overlap, without_trained
from repel.data.samples import Splits
from repel.engine.build import build_data
from repel.engine.configs import to_container, with_data_root
from repel.engine.modalities import NOUNS, modality_of

__all__ = ["data_option", "hint_of_data_root", "is_own_data", "print_changes", "read_to_evaluate", "with_data"]


ENCODER_INPUT = ("channels", "mean", "std", "image_size", "range", "max_tokens")  # options of data that it depends on
LEARNED = ("tokenizer", "tokens", "vocabulary", "tokenizer_texts")  # options of what a run's checkpoint has learned


def with_data(cfg: DictConfig, run: dict[str, Any], overrides: Collection[str] = ()) -> dict[str, Any]:
    """A run's config with the data that a command names in place of its own, as input of the run's encoder.

    What the encoder's input depends on, such as channels and image size, is the run's, as the encoder knows nothing
    else, unless it was typed.

    Args:
        cfg: the command's config, with a group `data`, or null for the run's own data, and `data_root`, the new place
            of the run's own data, or null.
        run: the run's config, as its checkpoint holds it.
        overrides: what was typed.
    """
    run = copy.deepcopy(run)
    if cfg.data_root is not None:
        run = with_data_root(run, cfg.data_root)
    if cfg.get("data") is None:
        return run
    ours, theirs = modality_of(run["data"]["datamodule"]["read"]), modality_of(to_container(cfg.data.datamodule.read))
    if ours and theirs and ours != theirs:
        raise ValueError(f"data= is {NOUNS[theirs]}, and the run learned from {NOUNS[ours]}: choose such data")
    typed = {override.split("=")[0].lstrip("+") for override in overrides}
    if ignored := sorted(typed & {f"data.{key}" for key in LEARNED}):
        raise ValueError(f"{ignored[0]}= is of training: the run's own tokenizer is taken; leave it out")
    keys = [key for key in ENCODER_INPUT if key in run["data"] and key in cfg.data]
    kept = {key: run["data"][key] for key in keys if f"data.{key}" not in typed}
    return run | {"data": to_container(OmegaConf.merge(cfg, {"data": kept}))["data"]}


def data_option(cfg: DictConfig) -> str:
    """The option that names the data, with its value, for messages."""
    root = cfg.data.get("root")
    return f"data.root={root}" if root is not None else "data"


@contextmanager
def hint_of_data_root(cfg: DictConfig) -> Iterator[None]:
    """Adds to a mistake about a folder that is not there how to say where it is: for data that a run had before."""
    try:
        yield
    except ValueError as error:
        root = cfg.data.get("root")
        if root is None or Path(root).expanduser().exists():
            raise
        raise ValueError(f"{error}; if the run's data has moved, add data_root=FOLDER") from error


def is_own_data(cfg: DictConfig, run: dict[str, Any], named: Any) -> bool:
    """Whether a command reads the data that the run was trained on.

    Args:
        cfg: the config with the data that is read.
        run: the run's config, as its checkpoint holds it.
        named: the command's data=, None where it names none.
    """

    def place(data: Any) -> tuple[str, Path | None]:
        root = data.get("root")
        return data["datamodule"]["read"]["_target_"], None if root is None else Path(root).expanduser().resolve()

    return named is None or place(cfg.data) == place(run["data"])


def read_to_evaluate(cfg: DictConfig, contents: dict[str, Any], named: Any) -> PairData:
    """The data, read; of a run's own, validation and test samples that the run was trained on are left out.

    Args:
        cfg: the config with the data.
        contents: of the run's checkpoint.
        named: the command's data=, None where it names none.

    Raises:
        ValueError: the data has changed so that nothing can be tested.
    """
    data, before = build_data(cfg, contents.get("learned")), contents.get("samples")
    pairs = modality_of(to_container(cfg.data.datamodule.read)) == "interactions"
    if not is_own_data(cfg, contents["config"], named):
        if pairs:
            raise ValueError(
                "data= is another log, and a run on users and items knows those of its own log alone: leave out data=; "
                "data_root=FOLDER names the place of a log that has moved"
            )
        data.setup()
        if before and (count := overlap(before, data.splits)):
            _print(
                f"note     {count:,} of {len(data.splits.test):,} test samples are named as samples that the run was "
                "trained on: if they are the same, leave out data=, and name their folder by data_root=FOLDER"
            )
        return data
    with hint_of_data_root(cfg):
        data.setup()
    if before and pairs and (words := str(changes(before, data.splits) or "")):
        raise ValueError(
            f"{data_option(cfg)}: the log has changed since the run began ({words}), and with it the numbers that the "
            "run knows users and items by; bring it back, or train again"
        )
    if before:
        data.splits, words = without_trained(before, data.splits, data_option(cfg))
        if words:
            _print(f"data     since the run began: {words}")
    elif data.splits.train.keys() is not None:
        _print(
            "note     this checkpoint does not say which samples it was trained on, as those of version 0.1: if the "
            "data has changed since, test samples may be among them"
        )
    return data


def print_changes(before: dict[str, Any] | None, splits: Splits) -> None:
    """How a run's own data, as its reader splits it, has changed since the run began."""
    if before and (words := str(changes(before, splits) or "")):
        _print(f"data     since the run began: {words}")


def _print(line: str) -> None:
    if rank() == 0:
        print(line, flush=True)
