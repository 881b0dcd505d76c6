"""Flags: those that Hydra has, told apart from those that other programs have."""

import re
from collections.abc import Callable
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from repel.cli.arguments import overrides_of, to_type

__all__ = ["check_flags", "foreign_flag"]

FLAGS = ("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion",
         "config-path", "config-name", "config-dir", "experimental-rerun", "info")  # fmt: skip
SHORT = ("h", "c", "p", "r", "m", "sc", "cp", "cn", "cd", "i")
OF_OTHERS = {  # flags of Lightning's command line and of training scripts -> what to type
    "config": "experiment=NAME takes conf/experiment/NAME.yaml, and --config-dir=DIR your own conf/",
    "print_config": "--cfg job prints the config",
    "config-name": "every command has a config of its own; experiment=NAME takes conf/experiment/NAME.yaml",
    "config-path": "conf/ stays; --config-dir=DIR adds your own folder, with experiment/NAME.yaml and the like",
    "sweep": "-m sweeps, over every KEY=A,B",
    "verbose": "HYDRA_FULL_ERROR=1 before the command prints tracebacks",
    "debug": "experiment=debug trains on a few batches; HYDRA_FULL_ERROR=1 before the command prints tracebacks",
    "resume": "type resume=RUN",
    "local_rank": "torchrun sets it: docs/reliability.md",
}
SUBCOMMANDS = {  # of Lightning's command line
    "fit": "leave it out, this command trains; options are typed as KEY=VALUE",
    "train": "leave it out, this command trains; options are typed as KEY=VALUE",
    "validate": "python evaluate.py ckpt=RUN measures a run",
    "test": "python evaluate.py ckpt=RUN measures a run",
    "predict": "python embed.py ckpt=RUN writes features",
}


def foreign_flag(argument: str) -> str | None:
    """The word of --KEY=VALUE, --KEY or -KEY; None for a flag of Hydra's, for the start of one, and for no flag."""
    word = argument.lstrip("-").partition("=")[0]
    if argument[:1] != "-" or (argument[:2] != "--" and word in SHORT):
        return None
    if word in OF_OTHERS:
        return word
    return None if any(flag.startswith(word) for flag in FLAGS) and word else word


def check_flags(arguments: list[str], unknown: Callable[[str], str]) -> None:
    """Raises ValueError, of one line, for flags that Hydra does not have, or cannot read.

    Args:
        unknown: key -> a line, if the command has no such key; empty if it has one.
    """
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if (word := foreign_flag(argument)) is not None:
            raise ValueError(f"{argument}: {_instead(word, argument, following, unknown)}")
        if argument in SUBCOMMANDS and argument in overrides_of(arguments):
            raise ValueError(f"{argument}: {SUBCOMMANDS[argument]}")
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # argparse's own prints a page
    parser.parse_args(arguments)


def _instead(word: str, argument: str, following: str, unknown: Callable[[str], str]) -> str:
    if word in OF_OTHERS:
        return OF_OTHERS[word]
    value = argument.partition("=")[2] or (following if re.fullmatch("[^-=][^=]*", following) else "VALUE")
    line = f"options are typed without dashes, {to_type(f'{word}={value}')}"
    return f"{line}; {problem}" if (problem := unknown(word)) else line


def _refuse(message: str) -> NoReturn:
    flag, _, problem = message.removeprefix("argument ").partition(": ")
    if flag.startswith("--cfg"):
        raise ValueError("--cfg: type --cfg job for the config, --cfg hydra for Hydra's own, --cfg all for both")
    raise ValueError(f"{flag}: {problem}" if problem else message)
