"""Errors about names, Hydra's own included, in one line that suggests the nearest valid name."""

import difflib
import re
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel.base.installation import install_extra
from repel.cli.arguments import overrides_of, parsed, quoted_for_hydra, to_type
from repel.cli.baseline import (
    baseline,
    choices_with,
    command_groups,
    default_groups,
    group_options,
    groups_of_recipe,
    is_group,
    known_keys,
)
from repel.cli.choices import instead_of_choice
from repel.cli.habits import instead_of_flag
from repel.cli.option_names import instead_of_name
from repel.engine import outcomes
from repel.engine.configs import CONF
from repel.engine.outcomes import MISTAKE, one_line

__all__ = ["check_names", "config_mistake", "explain", "nearest"]

LAUNCHERS = {name: name.split("_")[0] for name in ("joblib", "submitit_slurm", "submitit_local", "ray")}


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
        if group == "hydra/launcher" and choice in LAUNCHERS:
            plugin = f"pip install hydra-{LAUNCHERS[choice]}-launcher (all launchers: {install_extra('launchers')})"
            asked = "sweep=parallel uses hydra/launcher=joblib, which" if choice == "joblib" else f"{group}={choice}"
            return f"{asked} needs a plugin of Hydra: {plugin}"
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
        return f"{found[1]} is missing from the config, and another option refers to it"
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
    if any(argument.startswith(("-", "hydra")) for argument in arguments):
        return
    for override in overrides:
        group, choice = override.key_or_group, override.value()
        if is_group(group) and isinstance(choice, str) and choice not in group_options(group):
            has_group = group in command_groups(name)
            raise ValueError(_no_such_choice(group, choice) if has_group else _unknown_option(group, name))
    if any(override.is_sweep_override() for override in overrides):
        return
    known = OmegaConf.to_container(baseline(name, arguments), resolve=False)
    for override in overrides:
        key = override.key_or_group
        if not (override.is_add() or is_group(key)):
            node = known
            for part in key.split("."):
                if isinstance(node, dict) and part not in node:
                    raise ValueError(_unknown_option(key, name, override.value()))
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
        raise ValueError(_unknown_option(key, name, value))
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
    instead = instead_of_choice(group, choice, options) or nearest(choice.lower(), options)
    return f"{group}={choice}: there is no such choice{instead} (there are: {', '.join(options)}{plugin})"


def _unknown_option(key: str, name: str, value: Any = "") -> str:
    """What to type in place of an option that there is not.

    Args:
        value: as typed; a method's name says what was wanted.
    """
    files = (CONF / "sweep").glob("*.yaml") if name == "train" and key.startswith("sweep.") else []
    if owners := [file.stem for file in files if OmegaConf.select(OmegaConf.load(file), key) is not None]:
        return f"unknown option {key}; it is of sweep={owners[0]}: add that"
    known = known_keys(name)
    group, _, rest = key.partition(".")
    has_group = group in command_groups(name) or any(one.startswith(f"{group}.") for one in known)
    if has_group and (choices := choices_with(key)):
        own = "; data=image_folder data.root=DIR reads your own images" if key == "data.root" else ""
        return f"{key}: the chosen {group} has no {rest}; these have: {', '.join(choices)}{own}"
    return f"unknown option {key}{instead_of_name(key, name, known, value) or nearest(key, known)}"
