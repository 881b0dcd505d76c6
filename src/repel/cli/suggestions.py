"""Errors about names, Hydra's own included, in one line that suggests the nearest valid name."""

import difflib
import os
import re
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import ListConfig, OmegaConf
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
from repel.cli.deletions import instead_of_group
from repel.cli.flags import check_flags
from repel.cli.habits import instead_of_value
from repel.cli.option_names import instead_of_name
from repel.cli.trainer_options import instead_of_option
from repel.engine import outcomes, runs
from repel.engine.configs import CONF
from repel.engine.outcomes import MISTAKE, one_line

__all__ = ["check_names", "config_mistake", "explain", "nearest", "respelled"]

ADD_CALLBACK = "'+callbacks.NAME={_target_:CLASS}' adds one, such as lightning.pytorch.callbacks.EarlyStopping"
SEVERAL_AT_ONCE = ("callbacks", "evaluators", "experiment", "logger")  # groups
MAY_BE_EMPTY = ("data_views", "evaluators", "experiment")  # groups
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
    if found := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", text):
        return _several_values(found[1], name)
    if "Config group override must be a string or a list" in text:
        return "a group takes names, GROUP=CHOICE, or of some groups a list, GROUP=[A,B]"
    if found := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"+{found[1]}: it is there already; leave out the +, {found[1]}=..."
    if found := re.search(r"Could not delete '([^']+)'", text):
        several = OmegaConf.select(baseline(name, []), found[1]) is not None
        return f"~{found[1]}: " + (
            f"name those to keep, {found[1]}=[...]" if several else "there is nothing to leave out"
        )
    if found := re.search(r"Could not delete from config. '([^']+)' does not exist", text):
        null = found[1] in known_keys(name)  # Hydra takes a key that is null for one that is not there
        return f"~{found[1]}: it is null, there is nothing to leave out" if null else _unknown_option(found[1], name)
    if found := re.search(r"Environment variable '(\w+)' not found", text):
        default = f"${{oc.env:{found[1]},DEFAULT}}"
        return f"{found[1]} is not set in the environment: set it before the command, or type {default} for a default"
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
    check_flags(arguments, lambda key: "" if key in known_keys(name) else _unknown_option(key, name))
    overrides = [_readable(argument, name) for argument in overrides_of(arguments)]
    for override in overrides:
        _check_choice_of_group(override, name)
        if override.key_or_group == "name":
            _check_folder_name(str(override.input_line).partition("=")[2])
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
    key, equals, value = argument.partition("=")
    if not key.strip("+~"):
        raise ValueError(f"{argument!r} names no key: type KEY=VALUE, or ~KEY to leave a part out (~callbacks.monitor)")
    if override := parsed(argument):
        return override
    if not equals:
        raise ValueError(
            f"{argument!r} is not KEY=VALUE; write it without spaces around =, and quote a value that has spaces: "
            "'KEY=a value'"
        )
    if key.lstrip("+~") not in known_keys(name) and not key.startswith(("+", "~", "hydra")):
        raise ValueError(_unknown_option(key, name, value))
    text, plain = to_type(f"{key}={quoted_for_hydra(value)}"), f"{key}={value.rstrip(',;: ')}"
    if plain != argument and parsed(plain):
        raise ValueError(f"{argument} ends with what is no part of a value; type {to_type(plain)}")
    raise ValueError(f"{argument}: brackets, quotes or commas that do not fit; for a text with them, type {text}")


def _check_choice_of_group(override: Override, name: str) -> None:
    """Choices that Hydra's list of defaults could not take, or could only mix; a glob that would find none."""
    group = override.key_or_group
    if isinstance(override.value(), Glob) and not is_group(group):
        raise ValueError(
            f"{override.input_line}: glob lists the choices of a group, such as loss; {group} is none: type its "
            f"values, {group}=A,B"
        )
    if override.is_add() and group in default_groups(name):
        plain, choice = str(override.input_line).lstrip("+"), override.value()
        if isinstance(choice, str) and choice not in group_options(group):
            raise ValueError(_no_such_choice(group, choice))
        raise ValueError(f"+{group}: {group} is chosen already; leave out the +, {plain}")
    recipes = override.value()
    chosen_one = isinstance(recipes, str) or (isinstance(recipes, list) and recipes)
    changes = not (override.is_delete() or override.is_sweep_override() or group in MAY_BE_EMPTY)
    if group in default_groups(name) and changes and not chosen_one:
        raise ValueError(f"{override.input_line}: {group} needs a choice; {instead_of_group(group)}")
    if group == "evaluators" and recipes is None:
        raise ValueError("evaluators=null: type evaluators=[] to measure nothing")
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


def _several_values(argument: str, name: str) -> str:
    """A line on KEY=A,B without -m."""
    key, _, values = argument.partition("=")
    program = " ".join(runs.program())
    line = f"{argument} has several values: to run one after another, type {program} -m {to_type(argument)}"
    default = OmegaConf.select(baseline(name, []), key) if not is_group(key) else None
    if "(" not in values and (key in SEVERAL_AT_ONCE or isinstance(default, ListConfig)):
        return f"{line}; for all in one run, {to_type(f'{key}=[{values}]')}"
    return line + instead_of_value(key, values).replace("type", "to choose GPUs, type", 1)


def respelled(name: str, arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them, where it is clear what is meant.

    A + before a key that there is, as those type who know the option from Lightning alone, is left out. GROUP=null is
    left out where that is the default, and becomes ~GROUP where a group is chosen only if it fits.
    """
    found = []
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if re.match(r"\+[^+]", argument) and not is_group(key) and key in known_keys(name):
            argument = argument[1:]
        if value == "null" and (default := default_groups(name).get(key, "")) is None:
            continue
        optional = value == "null" and "${" in (default or "")
        found.append(f"~{key}" if optional else argument)
    return found


def _check_folder_name(text: str) -> None:
    """Of a run, as typed: a folder's name ends in it, and a command's last line in that."""
    if "${" not in text and ("/" in text or not text.isprintable()):
        raise ValueError(
            f"name={text} becomes part of a folder's name: leave out / and line breaks; hydra.run.dir=DIR names a place"
        )


def nearest(word: str, known: list[str]) -> str:
    """'; did you mean ...?', or nothing when nothing is close. A key must be close by its last part."""
    plain = {key.lower(): key for key in reversed(known)}
    tail = word.lower().rsplit(".", 1)[-1]

    def is_close(key: str) -> bool:
        return difflib.SequenceMatcher(None, tail, key.rsplit(".", 1)[-1]).ratio() >= 0.6

    close = [plain[key] for key in difflib.get_close_matches(word.lower(), plain, n=5, cutoff=0.6) if is_close(key)]
    if not close:
        tails = {key.rsplit(".", 1)[-1]: plain[key] for key in plain}
        close = [tails[t] for t in difflib.get_close_matches(tail, tails, n=1, cutoff=0.75)]
    return f"; did you mean {close[0]}?" if close else ""


def _no_such_choice(group: str, choice: str, options: list[str] | None = None) -> str:
    options = group_options(group) if options is None else options
    plugin = "; others are plugins, such as hydra-joblib-launcher" if group == "hydra/launcher" else ""
    own = f"; {ADD_CALLBACK}" if group == "callbacks" else ""
    instead = instead_of_choice(group, choice, options) or nearest(choice.lower(), options)
    return f"{group}={choice}: there is no such choice{instead} (there are: {', '.join(options)}{plugin}){own}"


def _unknown_option(key: str, name: str, value: Any = "") -> str:
    """What to type in place of an option that there is not.

    Args:
        value: as typed; a method's name says what was wanted.
    """
    files = (CONF / "sweep").glob("*.yaml") if name == "train" and key.startswith("sweep.") else []
    if owners := [file.stem for file in files if OmegaConf.select(OmegaConf.load(file), key) is not None]:
        return f"unknown option {key}; it is of sweep={owners[0]}: add that"
    known = known_keys(name)
    if refused := instead_of_option(key):
        return refused
    if re.search(r"[\s,]", key):
        return f"unknown option {key}; a value with spaces or commas stands in quotes, as in 'name=a b,c'"
    group, _, rest = key.partition(".")
    has_group = group in command_groups(name) or any(one.startswith(f"{group}.") for one in known)
    if has_group and (choices := choices_with(key)):
        own = "; data=image_folder data.root=DIR reads your own images" if key == "data.root" else ""
        return f"{key}: the chosen {group} has no {rest}; these have: {', '.join(choices)}{own}"
    instead = instead_of_name(key, name, known, value) or _of_group(group, rest) or nearest(key, known)
    return f"unknown option {key}" + (instead or _where_listed(group))


def _of_group(group: str, option: str) -> str:
    """'; ' and what to type for options that are typed otherwise, or nothing."""
    if option == "name" and is_group(group):
        return f"; type {group}=NAME"
    return "; a new one is typed with a + before it, and --cfg hydra shows those there are" if group == "hydra" else ""


def _where_listed(group: str) -> str:
    if group == "callbacks":
        return f"; callbacks.last and callbacks.best write checkpoints, {ADD_CALLBACK}"
    return f"; {' '.join(runs.program())} --help {group} lists those there are" if is_group(group) else ""
