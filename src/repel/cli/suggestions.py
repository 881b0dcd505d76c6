"""Errors about names, Hydra's own included, in one line that suggests the nearest valid name."""

import difflib
import os
import re

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel.base.installation import install_extra
from repel.cli.arguments import overrides_of, parsed, quoted_for_hydra, to_type
from repel.cli.baseline import baseline, default_groups, group_options, groups_of_recipe, is_group, known_keys
from repel.cli.habits import instead_of_flag, instead_of_key
from repel.engine import outcomes
from repel.engine.outcomes import MISTAKE, one_line

__all__ = ["check_names", "config_mistake", "explain", "nearest"]

LAUNCHERS = {name: name.split("_")[0] for name in ("joblib", "submitit_slurm", "submitit_local", "ray", "rq")}


def explain(error: Exception, name: str) -> tuple[int, str]:
    """Exit status and one line for the exception that ended a command; Hydra's errors get words of ours."""
    if isinstance(error, HydraException | OmegaConfBaseException) and not isinstance(error, InstantiationException):
        return MISTAKE, config_mistake(error, name)
    return outcomes.explain(error)


def config_mistake(error: Exception, name: str) -> str:
    """One line for an error of Hydra or OmegaConf: which key, and the nearest valid one."""
    text = str(error)
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        group, choice = found.groups()
        if (group, choice) == ("hydra/sweeper", "optuna"):
            return f"sweep=optuna needs Optuna's plugin for Hydra: {install_extra('optuna')}"
        return _no_such_choice(group, choice, getattr(error, "options", None) if group.startswith("hydra/") else None)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_option(found[1], name)
    if found := re.search(r"Could not delete '([^']+)'", text):
        several = OmegaConf.select(baseline(name, []), found[1]) is not None
        return f"~{found[1]}: " + (
            f"name those to keep, {found[1]}=[...]" if several else "there is nothing to leave out"
        )
    if found := re.search(r"Could not delete from config. '([^']+)' does not exist", text):
        null = found[1] in known_keys(name)  # Hydra takes a key that is null for one that is not there
        return f"~{found[1]}: it is null, there is nothing to leave out" if null else _unknown_option(found[1], name)
    if found := re.search(r"^\w+ raised while resolving interpolation: (.*)", text):
        return found[1]  # raised by a resolver of ours
    if found := re.search(r"Interpolation key '([^']+)' not found", text):
        variable = f"; an environment variable is ${{oc.env:{found[1]}}}" if found[1] in os.environ else ""
        return f"{found[1]} is missing from the config, and another option refers to it{variable}"
    if found := re.search(r"Error resolving interpolation '([^']+)'", text):  # between groups
        return "needed: an option of " + " and of ".join(re.findall(r"\$\{(\w+)\}", found[1]))
    if isinstance(error, MissingConfigException):
        return one_line(error)
    return outcomes.explain(error)[1] or type(error).__name__


def check_names(name: str, arguments: list[str]) -> None:
    """Reject keys and choices that do not exist before Hydra composes the config, which it does twice.

    What this cannot decide, such as choices in other folders or a sweep over choices with keys of their own, is left
    to Hydra.

    Raises:
        ValueError: one line that names the key or the choice, and the nearest valid one.
    """
    for flag in arguments:
        if instead := instead_of_flag(flag):
            raise ValueError(f"{flag}: {instead}")
    overrides = [_readable(argument, name) for argument in overrides_of(arguments)]
    for override in overrides:
        _check_choice_of_group(override, name)
        if override.key_or_group == "name":
            _check_folder_name(str(override.input_line).partition("=")[2])
    if any(argument.startswith(("-", "hydra")) for argument in arguments):
        return
    keys = [override.key_or_group for override in overrides]
    if "resume" in keys and "data.root" in keys:
        raise ValueError("resume= uses the run's own config; if its data has moved, data_root=FOLDER says where it is")
    for override in overrides:
        group, choice = override.key_or_group, override.value()
        if is_group(group) and isinstance(choice, str) and choice not in group_options(group):
            raise ValueError(_no_such_choice(group, choice))
    if any(override.is_sweep_override() for override in overrides):
        return
    known = OmegaConf.to_container(baseline(name, arguments), resolve=False)
    for override in overrides:
        key = override.key_or_group
        if not (override.is_add() or is_group(key)):
            node = known
            for part in key.split("."):
                if isinstance(node, dict) and part not in node:
                    raise ValueError(_unknown_option(key, name))
                node = node[part] if isinstance(node, dict) else None


def _readable(argument: str, name: str) -> Override:
    """An argument as Hydra reads it; where it cannot, a line that says what to type."""
    if override := parsed(argument):
        return override
    key, equals, value = argument.partition("=")
    if not equals:
        raise ValueError(
            f"{argument!r} is not KEY=VALUE; write it without spaces around =, and quote a value that has spaces: "
            "'KEY=a value'"
        )
    if key.lstrip("+~") not in known_keys(name) and not key.startswith(("+", "~", "hydra")):
        raise ValueError(_unknown_option(key, name))
    text = to_type(f"{key}={quoted_for_hydra(value)}")
    raise ValueError(f"{argument}: brackets, quotes or commas that do not fit; for a text with them, type {text}")


def _check_choice_of_group(override: Override, name: str) -> None:
    """Choices that Hydra's list of defaults could not take, or could only mix."""
    group = override.key_or_group
    if override.is_add() and group in default_groups(name):
        plain = str(override.input_line).lstrip("+")
        raise ValueError(f"+{group}: {group} is chosen already; leave out the +, {plain}")
    recipes = override.value()
    if group != "experiment" or not isinstance(recipes, list):
        return
    chosen: dict[str, tuple[str, str]] = {}
    for recipe in map(str, recipes):
        for of, choice in groups_of_recipe(recipe).items():
            other, before = chosen.setdefault(of, (recipe, choice))
            if before != choice:
                raise ValueError(
                    f"experiment=[{','.join(map(str, recipes))}]: {other} sets {of}={before} and {recipe} sets "
                    f"{of}={choice}; choose one, and add what you need of the other by GROUP=CHOICE and KEY=VALUE"
                )


def _check_folder_name(text: str) -> None:
    """Of a run, as typed: a folder's name ends in it, and a command's last line in that."""
    if "${" not in text and ("/" in text or not text.isprintable()):
        raise ValueError(
            f"name={text} becomes part of a folder's name: leave out / and line breaks; hydra.run.dir=DIR names a place"
        )


def nearest(word: str, known: list[str]) -> str:
    """'; did you mean ...?', or nothing when nothing is close. A key is also compared by its last part."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        tails = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        close = [tails[t] for t in difflib.get_close_matches(word.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.75)]
    return f"; did you mean {close[0]}?" if close else ""


def _no_such_choice(group: str, choice: str, options: list[str] | None = None) -> str:
    options = group_options(group) if options is None else options
    plugin = "; others are plugins, such as hydra-joblib-launcher" if group == "hydra/launcher" else ""
    if plugin and choice in LAUNCHERS:
        plugin = f"; this one is a plugin: pip install hydra-{LAUNCHERS[choice]}-launcher"
    return (
        f"{group}={choice}: there is no such choice{nearest(choice, options)} (there are: {', '.join(options)}{plugin})"
    )


def _unknown_option(key: str, name: str) -> str:
    known = known_keys(name)
    instead = instead_of_key(key, known)
    return f"unknown option {key}" + (f"; {instead}" if instead else nearest(key, known))
