"""What can be typed: folders, groups, choices, and the config as composed before any value was changed."""

import argparse
import contextlib
import functools
import importlib.resources
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

import repel.cli.resolvers  # noqa: F401 - which conf/ uses
from repel.engine.configs import CONF, flatten

__all__ = [
    "baseline",
    "choices_with",
    "command_groups",
    "default_groups",
    "dotted_keys",
    "group_options",
    "groups_of_recipe",
    "is_group",
    "known_keys",
    "own_folders",
    "task_overrides",
    "whole",
]


def own_folders() -> list[Path]:
    """The user's own config folders, by --config-dir or hydra.searchpath; before a job starts, --config-dir alone."""
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        files = [Path(source.path) for source in sources if source.schema == "file"]
        names = [source.path for source in sources if source.schema == "pkg" and source.provider != "hydra"]
        packages = [Path(str(importlib.resources.files(name))) for name in names]
        return [folder for folder in (*files, *packages) if folder != CONF]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    typed = parser.parse_known_args(sys.argv[1:])[0].config_dir
    return [typed] if typed else []


def is_group(key: str) -> bool:
    return any((folder / key).is_dir() for folder in (CONF, *own_folders()))


def group_options(group: str) -> list[str]:
    """The choices of a config group. Files that begin with an underscore are shared parts, not choices."""
    found = (path for folder in (CONF, *own_folders()) for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in found if not path.stem.startswith("_")})


def choices_with(key: str) -> list[str]:
    """The choices of a group, such as data, that have an option such as data.root."""
    group, _, rest = key.partition(".")
    return [choice for choice in group_options(group) if rest and _has(group, choice, rest)]


def _has(group: str, choice: str, option: str) -> bool:
    """Whether a choice's file, or one of the same group that it is made from, has an option."""
    file = next(
        (path for folder in (CONF, *own_folders()) if (path := folder / group / f"{choice}.yaml").is_file()), None
    )
    content = OmegaConf.load(file) if file else None
    if not isinstance(content, DictConfig):
        return False
    made_from = [member for member in content.get("defaults", []) if isinstance(member, str) and member != "_self_"]
    found = OmegaConf.to_container(content, resolve=False)
    for part in option.split("."):
        found = found.get(part, ...) if isinstance(found, dict) else ...
    return found is not ... or any(_has(group, parent, option) for parent in made_from)


def default_groups(name: str) -> dict[str, Any]:
    """The groups in a command's list of defaults, which one chooses by GROUP=, not by +GROUP=, and their choices."""
    members = OmegaConf.select(OmegaConf.load(CONF / f"{name}.yaml"), "defaults")
    chosen = (member for member in members if isinstance(member, DictConfig))
    pairs = (pair for member in chosen for pair in member.items_ex(resolve=False))
    return {str(key).removeprefix("optional "): choice for key, choice in pairs}


def groups_of_recipe(recipe: str) -> dict[str, str]:
    """group -> choice that conf/experiment/RECIPE.yaml, or one of the user's own, sets, and what it is made from."""
    files = [folder / "experiment" / f"{recipe}.yaml" for folder in (CONF, *own_folders())]
    loaded = [OmegaConf.to_container(OmegaConf.load(file)) for file in files if file.is_file()]
    members = [member for content in loaded if isinstance(content, dict) for member in content.get("defaults", [])]
    bases = [groups_of_recipe(member) for member in members if isinstance(member, str) and member != "_self_"]
    pairs = (pair for member in members if isinstance(member, dict) for pair in member.items())
    own = {str(key).removeprefix("override /"): str(choice) for key, choice in pairs if "override /" in str(key)}
    return {group: choice for groups in (*bases, own) for group, choice in groups.items()}


def command_groups(name: str) -> list[str]:
    """A command's groups, with those of the config that its own begins with: show_views has train's."""
    members = OmegaConf.select(OmegaConf.load(CONF / f"{name}.yaml"), "defaults")
    others = [member for member in members if isinstance(member, str) and member != "_self_"]
    return [*default_groups(name), *(group for other in others for group in command_groups(other))]


def known_keys(name: str) -> list[str]:
    """A command's groups, and all dotted keys of its config as composed with the choices of groups that were typed."""
    return command_groups(name) + dotted_keys(baseline(name, sys.argv[1:]))


def dotted_keys(cfg: DictConfig) -> list[str]:
    """All dotted keys, those of groups and of parts included."""
    found = (key.split(".") for key in flatten(cfg))
    return list(dict.fromkeys(".".join(parts[:end]) for parts in found for end in range(1, len(parts) + 1)))


def task_overrides(overrides: ListConfig | None = None) -> list[str]:
    """Overrides, by default the job's, as they were typed: read one by one, interpolations would be resolved."""
    chosen = HydraConfig.get().overrides.task if overrides is None else overrides
    return [str(override) for override in OmegaConf.to_container(chosen, resolve=False) or ()]


def baseline(name: str, overrides: list[str]) -> DictConfig:
    """The config before any value was changed: groups chosen, those that do not exist left at their default."""
    return _composed(name, tuple(o for o in overrides if _is_choice(o)))


@functools.cache  # composing takes a third of a second
def _composed(name: str, choices: tuple[str, ...]) -> DictConfig:
    with _hydra_compose() as compose:
        try:
            return compose(name, overrides=list(choices))
        except HydraException:
            return compose(name)


def _is_choice(override: str) -> bool:
    """Whether an override picks options of a group, as in loss=ntxent or evaluators=[knn,linear]."""
    group, _, choice = override.partition("=")
    several = choice.startswith("[") and choice.endswith("]")
    chosen = [name.strip() for name in choice[1:-1].split(",")] if several else [choice]
    group = group.partition("@")[0]  # encoder@encoder.item_text=bag
    return is_group(group) and set(chosen) <= {*group_options(group)}


def whole(name: str, overrides: list[str]) -> DictConfig:
    """The config as composed of these overrides, values included."""
    with _hydra_compose() as compose:
        return compose(name, overrides=overrides)


@contextlib.contextmanager
def _hydra_compose() -> Iterator[Callable[..., DictConfig]]:
    """compose(), inside a running job, where Hydra is initialized, or outside."""
    if GlobalHydra.instance().is_initialized():
        yield hydra.compose
    else:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            yield hydra.compose
