"""What to type in place of a choice or an option that there is not: the nearest name, or the words of the tables."""

import difflib
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from repel.cli.baseline import choices_with, command_groups, group_options, is_group, known_keys
from repel.cli.choices import instead_of_choice
from repel.cli.option_names import instead_of_name
from repel.cli.trainer_options import instead_of_option
from repel.engine import runs
from repel.engine.configs import CONF

__all__ = ["nearest", "no_such_choice", "unknown_option"]

ADD_CALLBACK = "'+callbacks.NAME={_target_:CLASS}' adds one, such as lightning.pytorch.callbacks.EarlyStopping"

OWN_DATA = {  # key -> what else to say where the chosen data has no such option
    "data.root": "; data=image_folder data.root=DIR reads your own images, "
    "experiment=text data=text_csv data.root=FILE your own texts, "
    "experiment=recommendation data=interactions_csv data.root=FILE your own log of users and items",
    "data.label_column": "; for texts type data.label=COLUMN",
}


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


def no_such_choice(group: str, choice: str, options: list[str] | None = None) -> str:
    options = group_options(group) if options is None else options
    plugin = "; others are plugins, such as hydra-joblib-launcher" if group == "hydra/launcher" else ""
    own = f"; {ADD_CALLBACK}" if group == "callbacks" else ""
    instead = instead_of_choice(group, choice, options) or _of_file(group, choice) or nearest(choice.lower(), options)
    return f"{group}={choice}: there is no such choice{instead} (there are: {', '.join(options)}{plugin}){own}"


def _of_file(group: str, choice: str) -> str:
    """'; ' and what to type for a file in place of a choice of data, or nothing."""
    reader = {".csv": "text_csv", ".tsv": "text_csv", ".txt": "text_lines", ".npz": "array", ".npy": "array"}
    found = reader.get(Path(choice).suffix.lower()) if group.partition("/")[0] == "data" else None
    texts = "experiment=text " * str(found).startswith("text")
    return f"; type {texts}data={found} data.root={choice}" if found else ""


def unknown_option(key: str, name: str, value: Any = "") -> str:
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
        own = OWN_DATA.get(key, "")
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
