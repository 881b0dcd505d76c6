"""Arguments judged before Hydra reads them: the names of keys and choices, and what Hydra would misread."""

import re

from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from omegaconf import OmegaConf

from repel.cli.arguments import overrides_of, parsed, quoted_for_hydra, to_type
from repel.cli.baseline import (
    baseline,
    command_groups,
    default_groups,
    group_options,
    groups_of_recipe,
    is_group,
    known_keys,
)
from repel.cli.deletions import instead_of_group
from repel.cli.flags import check_flags
from repel.cli.suggestions import no_such_choice, unknown_option

__all__ = ["check_names", "respelled"]

MAY_BE_EMPTY = ("data_views", "evaluators", "experiment")  # groups


def check_names(name: str, arguments: list[str]) -> None:
    """Reject keys and choices that do not exist before Hydra composes the config, which it does twice.

    What this cannot decide, such as choices in other folders or a sweep over choices with keys of their own, is left
    to Hydra.

    Raises:
        ValueError: one line that names the key or the choice, and the nearest valid one.
    """
    check_flags(arguments, lambda key: "" if key in known_keys(name) else unknown_option(key, name))
    overrides = [_readable(argument, name) for argument in overrides_of(arguments)]
    for override in overrides:
        _check_choice_of_group(override, name)
        if override.key_or_group == "name":
            _check_folder_name(str(override.input_line).partition("=")[2])
    if any(argument.startswith(("-", "hydra")) for argument in arguments if argument not in ("-m", "--multirun")):
        return
    for override in overrides:
        group, value = override.key_or_group, override.value()
        for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
            if is_group(group) and isinstance(choice, str) and choice not in group_options(group):
                has_group = group in command_groups(name)
                raise ValueError(no_such_choice(group, choice) if has_group else unknown_option(group, name))
    if any(override.is_sweep_override() for override in overrides):
        return
    known = OmegaConf.to_container(baseline(name, arguments), resolve=False)
    for override in overrides:
        key = override.key_or_group
        if not (override.is_add() or is_group(key)):
            node = known
            for part in key.split("."):
                if isinstance(node, dict) and part not in node:
                    raise ValueError(unknown_option(key, name, override.value()))
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
        raise ValueError(unknown_option(key, name, value))
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
            raise ValueError(no_such_choice(group, choice))
        raise ValueError(f"+{group}: {group} is chosen already; leave out the +, {plain}")
    recipes = override.value()
    chosen_one = isinstance(recipes, str) or (isinstance(recipes, list) and recipes)
    changes = not (override.is_delete() or override.is_sweep_override() or group in MAY_BE_EMPTY)
    if group in default_groups(name) and changes and not chosen_one:
        raise ValueError(f"{override.input_line}: {group} needs a choice; {instead_of_group(group)}")
    if group == "evaluators" and recipes is None:
        raise ValueError("evaluators=null: type 'evaluators=[]' to measure nothing")
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
