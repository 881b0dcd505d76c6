"""Errors of Hydra and OmegaConf in one line: what was typed, and what to type."""

import os
import re

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel.base.installation import install_extra
from repel.cli.arguments import to_type
from repel.cli.baseline import baseline, is_group, known_keys
from repel.cli.habits import instead_of_value
from repel.cli.suggestions import no_such_choice, unknown_option
from repel.engine import outcomes, runs
from repel.engine.outcomes import MISTAKE, one_line

__all__ = ["config_mistake", "explain"]

SEVERAL_AT_ONCE = ("callbacks", "evaluators", "experiment", "logger")  # groups
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
        return no_such_choice(group, choice, getattr(error, "options", None) if group.startswith("hydra/") else None)
    if found := re.search(r"Could not override '([^']+)'", text):
        return unknown_option(found[1], name)
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
        return f"~{found[1]}: it is null, there is nothing to leave out" if null else unknown_option(found[1], name)
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


def _several_values(argument: str, name: str) -> str:
    """A line on KEY=A,B without -m."""
    key, _, values = argument.partition("=")
    program = " ".join(runs.program())
    line = f"{argument} has several values: to run one after another, type {program} -m {to_type(argument)}"
    default = OmegaConf.select(baseline(name, []), key) if not is_group(key) else None
    if "(" not in values and (key in SEVERAL_AT_ONCE or isinstance(default, ListConfig)):
        return f"{line}; for all in one run, {to_type(f'{key}=[{values}]')}"
    return line + instead_of_value(key, values).replace("type", "to choose GPUs, type", 1)
