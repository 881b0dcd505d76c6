"""What ~KEY may leave out: a member of a collection, or an argument that the class or function has a default for."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import hydra.utils
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from repel.cli.baseline import dotted_keys, group_options, is_group
from repel.engine.configs import flatten
from repel.engine.part_options import PARTS, takes
from repel.engine.targets import check_objects

__all__ = ["check_deletions", "instead_of_group"]

COLLECTIONS = ("callbacks", "logger", "evaluators", "data.tasks")
READ = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.precision")  # by the commands as well


def check_deletions(cfg: DictConfig, full: DictConfig, overrides: list[str]) -> Iterator[str]:
    """Notes on the arguments that were left out: which defaults hold instead.

    Args:
        cfg: the composed config.
        full: what it was before any value was changed or deleted.
        overrides: as typed.

    Raises:
        ValueError: one line that names the key.
    """
    known = dotted_keys(full)
    for override in OverridesParser.create().parse_overrides(overrides):
        key, (parent, _, name) = override.key_or_group, override.key_or_group.rpartition(".")
        if not override.is_delete() or parent in COLLECTIONS or key not in known:
            continue
        if is_group(key):
            raise ValueError(f"~{key}: {key} is needed; {instead_of_group(key)}")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if parent in PARTS and "_target_" in node and name[0] != "_" and not takes(str(node["_target_"]), name):
            continue  # it is of another choice of the group
        default = inspect.Parameter.empty
        if "_target_" in node and not name.startswith("_") and key not in READ and not _is_used(cfg, key):
            default = _default(str(node["_target_"]), name)
        if default is inspect.Parameter.empty:
            raise ValueError(f"~{key}: {key} is needed; set it instead, {key}=...")
        yield f"~{key}: {str(node['_target_']).rpartition('.')[2]}'s own default holds, {default!r}"


def instead_of_group(group: str) -> str:
    """What to type where a whole group was to be left out."""
    options = group_options(group)
    if group in COLLECTIONS:
        return f"type {group}=none, or ~{group}.NAME for one" if "none" in options else f"~{group}.NAME leaves one out"
    return f"{group}=none leaves it out" if "none" in options else f"choose one of: {', '.join(options)}"


def _is_used(cfg: DictConfig, key: str) -> bool:
    """Whether another option refers to the key or to one below it."""
    reference = re.compile(rf"\$\{{{re.escape(key)}[.}}]")
    return any(reference.search(str(value)) for value in flatten(cfg).values())


def _default(target: str, argument: str) -> Any:
    """The default of a class's or function's argument; inspect.Parameter.empty: it has none."""
    check_objects({"_target_": target})
    parameter = inspect.signature(hydra.utils.get_object(target)).parameters.get(argument)
    return inspect.Parameter.empty if parameter is None else parameter.default
