"""Options beside resume=: those with which a run goes on longer or elsewhere, and no others.

Hydra composes them behind those that the run was started with, so that keys and choices are the run's own. What they
change of its config is kept in the run's environment.json, which a later resume reads.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from repel.cli.arguments import overrides_of, parsed, quoted_for_hydra, to_type
from repel.cli.baseline import own_folders, whole
from repel.engine import runs
from repel.engine.configs import flatten, to_container, with_values

__all__ = ["allowed_changes", "typed_at_resume", "with_options_of_run"]

LONGER = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "schedule.on_extend", "schedule.max_epochs",
          "anneal.epochs")  # fmt: skip
ELSEWHERE = (  # what is computed does not depend on these, but for rounding
    "compile", "gather",
    "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy", "trainer.log_every_n_steps",
    "trainer.profiler", "data.workers", "data.datamodule.read.workers", "data.device_cache",
    "data.datamodule.device_cache", "logger", "callbacks.last.every_n_train_steps", "callbacks.progress",
)  # fmt: skip
OWN = ("resume", "data_root", "sweep", "hydra")  # not of the run's config
MEASURED = ("evaluators", "evaluation")  # only after training, but for evaluation.k and the like


def typed_at_resume(overrides: list[str]) -> list[str]:
    """What was typed, of a command's overrides: with_options_of_run puts others before resume=."""
    return overrides[[_key(override) for override in overrides].index("resume") :]


def with_options_of_run(arguments: list[str]) -> list[str]:
    """A command's arguments; before resume= with other options come those that the run was started with.

    Args:
        arguments: as spelled for Hydra.

    Raises:
        ValueError: resume= names no run, or an option says where data lies.
    """
    options = overrides_of(arguments)
    own = [option for option in options if _key(option) in ("resume", "data_root")]
    typed = [option for option in options if option not in own]
    named = [override.value() for option in own if (override := parsed(option)) and override.key_or_group == "resume"]
    if not typed or not named or not isinstance(named[-1], str):
        return arguments
    folder = runs.find(named[-1])
    started = _started_with(folder)
    new = {_key(option) for option in typed if option not in started}
    if "init" in new:
        raise ValueError("resume= goes on with a run, and init= starts a new one from weights: type one of them")
    if "data.root" in new:
        raise ValueError("resume= uses the run's own config; if its data has moved, data_root=FOLDER says where it is")
    if (folders := runs.read_environment(folder).get("config_dirs")) and not own_folders():
        raise ValueError(f"{named[-1]} was started with --config-dir={folders[0]}; add it beside resume=")
    if _moved_to(own):
        typed = [option for option in typed if _key(option) != "data.root"]  # where it was
    again = {_key(option) for option in typed}
    before = [option for option in _at_its_place(started, folder, _moved_to(own)) if _key(option) not in again]
    return [*before, *own, *typed, *(argument for argument in arguments if argument not in options)]


def _moved_to(options: list[str]) -> str | None:
    """The data_root= among them."""
    named = [override for option in options if (override := parsed(option)) and override.key_or_group == "data_root"]
    return str(named[-1].value()) if named and named[-1].value() is not None else None


def _at_its_place(started: list[str], folder: Path, data_root: str | None) -> list[str]:
    """A run's options, with its data where it lies now: data=array reads its shape when the config is composed.

    Args:
        data_root: as typed; None: as the run has it.
    """
    place = data_root or runs.read_environment(folder).get("data_root")
    there = None if place is None else f"data.root={quoted_for_hydra(str(place))}"
    return [there if there and _key(option) == "data.root" else option for option in started]


def _started_with(folder: Path) -> list[str]:
    """The options that give a run's config of now: of its start, and of every time it was resumed."""
    environment = runs.read_environment(folder)
    found: dict[str, str] = {}
    for record in (environment, *environment.get("resumed", ())):
        for option in record.get("overrides", ()):
            if _key(option).split(".")[0].lstrip("+~") not in OWN:
                found.pop(_key(option), None)
                found[_key(option)] = option
    return list(found.values())


def _key(option: str) -> str:
    """Which of the config's keys an option sets, adds or leaves out."""
    return option.partition("=")[0].lstrip("+~").partition("@")[0]


def allowed_changes(cfg: DictConfig, folder: Path, typed: list[str], chosen: Path) -> dict[str, Any]:
    """Dotted keys -> new values, of the run's config.

    Args:
        cfg: composed of the options that give the run's config, and of those that were typed.
        typed: the latter, resume= itself and data_root= among them.
        chosen: the checkpoint that the run resumes from, or the run's folder.

    Raises:
        ValueError: an option would change what the run computes, or a limit has been reached already.
    """
    typed = [option for option in typed if _key(option) not in ("resume", "data_root")]
    if not typed:
        return {}
    started = _at_its_place(_started_with(folder), folder, cfg.data_root)
    before, now = (_leaves(to_container(config)) for config in (whole("train", started), cfg))
    changed = [key for key in {**before, **now} if before.get(key, ...) != now.get(key, ...)]
    if refused := [key for key in changed if not _is_below(key, (*LONGER, *ELSEWHERE))]:
        raise ValueError(_refusal(refused, typed, str(cfg.resume)))
    changes = {key: now.get(key) for key in changed if not _is_below(key, ("logger",))}
    if len(changes) < len(changed):
        changes["logger"] = to_container(cfg)["logger"]  # as a whole: loggers may have gone
    run = runs.current_config(folder)
    if any(key.startswith("trainer.max_") for key in changes):
        changes.setdefault(
            "schedule.on_extend", run["schedule"].get("on_extend", cfg.schedule.get("on_extend", "stretch"))
        )
        if changes["schedule.on_extend"] == "stretch":
            changes |= _open_ends(run, cfg)
        _check_limits(with_values(run, changes)["trainer"], changes, folder, chosen)
    return changes


def _open_ends(run: dict[str, Any], cfg: DictConfig) -> dict[str, None]:
    """Ends that a run of version 0.1 has as the number that trainer.max_epochs was, and that are null today."""
    leaves = flatten(run)
    ends = [key for key in ("schedule.max_epochs", "anneal.epochs") if leaves.get(key) == run["trainer"]["max_epochs"]]
    return {key: None for key in ends if OmegaConf.select(cfg, key) is None}


def _leaves(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if key.split(".")[0] not in OWN}


def _is_below(key: str, groups: Iterable[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _refusal(refused: list[str], typed: list[str], run: str) -> str:
    causes = [option for option in typed if any(_is_below(key, [_key(option)]) for key in refused)] or typed
    words, ckpt = " ".join(map(to_type, causes)), to_type(f"ckpt={run}")
    if all(_is_below(key, MEASURED) for key in refused):
        return f"resume= measures what the run was to measure: leave out {words}, or type evaluate.py {ckpt} {words}"
    return (
        f"resume= uses the run's own config, as another would change what it computes: leave out {words}, or start a "
        f"new run from its weights, {to_type(f'init={run}')} {words}"
    )


def _check_limits(limits: dict[str, Any], typed: Iterable[str], folder: Path, chosen: Path) -> None:
    """Raises ValueError where nothing would be left to train."""
    from repel.engine import checkpoint_io  # torch
    from repel.engine.extension import limit_reached

    path = folder / "checkpoints" / "last.ckpt" if chosen.is_dir() else chosen
    if reached := limit_reached(limits, checkpoint_io.load(path)):
        key = f"trainer.{reached}"
        instead = "name a later end, or leave it out" if key in typed else f"it needs a later end, too: {key}=..."
        raise ValueError(f"{key}={limits[reached]}: the run has trained as long already; {instead}")
