"""What --help prints: a screen with the groups and some lines to type, and a group's own options on request."""

import shutil
import textwrap
from pathlib import Path

from repel.cli.baseline import default_groups, group_options, is_group, own_folders
from repel.cli.suggestions import nearest
from repel.engine import runs
from repel.engine.configs import CONF

__all__ = ["help_page"]

EXAMPLES = {
    "train": (
        ("", "train on bundled images, evaluate"),
        ("loss=infonce negatives=hcl", "choices and options, any number"),
        ("data=image_folder data.root=DIR", "your own images"),
        ("experiment=text data=text_csv data.root=FILE", "your own texts: docs/text.md"),
        ("-m loss=ntxent,barlow seed=1,2", "a sweep: all combinations"),
        ("trainer.fast_dev_run=true", "does it run at all?"),
    ),
    "evaluate": (("ckpt=RUN", "measure a run again"), ("ckpt=RUN data=cifar10", "on other data")),
    "embed": (
        ("ckpt=RUN data=image_folder data.root=DIR", "features of your own images"),
        ("ckpt=RUN data=text_csv data.root=FILE data.text=COLUMN", "of your own texts, by a run on texts"),
    ),
    "export": (("ckpt=RUN 'format=[safetensors,onnx]'", "the encoder as files"),),
    "mine_negatives": (("ckpt=RUN data=text_csv data.root=FILE data.positive=COLUMN", "hard negatives of texts"),),
    "show_views": (("data=cifar10 views=byol", "a picture of views"),),
}
IN_SCRIPTS = ("mine_negatives", "show_views")
KEYS = "seed name resume=RUN data.batch_size optimizer.lr trainer.max_epochs trainer.devices"


def help_page(name: str, arguments: list[str]) -> str:
    """The text for --help, or for --help GROUP or GROUP=CHOICE: the commented file of that choice.

    Raises:
        ValueError: there is no such group or choice.
    """
    words = [argument for argument in arguments if not argument.startswith("-")]
    if not words:
        return _screen(name)
    group, _, choice = words[0].partition("=")
    groups = default_groups(name)
    if not is_group(group):
        raise ValueError(f"--help {group}: there is no such group{nearest(group, list(groups))}")
    chosen = choice or _chosen(groups.get(group)) or group_options(group)[0]
    files = (folder / group / f"{chosen}.yaml" for folder in (CONF, *own_folders()))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        options = group_options(group)
        raise ValueError(f"--help {group}={chosen}: there is no such choice{nearest(chosen, options)}")
    return f"{group}: {', '.join(group_options(group))}\n\n{_shown(file)}"


def _screen(name: str) -> str:
    program = " ".join(runs.program())
    if name in IN_SCRIPTS and program.startswith("python "):
        program = program.replace(" ", " scripts/", 1)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    examples = EXAMPLES[name]
    longest = max(len(typed) for typed, _ in examples)
    choices = ["groups"] if name == "train" else []
    lines = [f"  {program} {typed:<{longest}}  {what}" for typed, what in examples]
    for group in default_groups(name) if name == "train" else ():
        if group not in ("hydra", "data_views"):
            text = textwrap.shorten(" ".join(group_options(group)), width - 14, placeholder=" ...")
            choices.append(f"  {group:<11} {text}")
    keys = [f"keys     {KEYS}"] if name == "train" else [_shown(CONF / f"{name}.yaml")]
    more = (
        "more     --help GROUP    a group's choices and options\n"
        "         --cfg job       the whole config; --resolve, --package GROUP\n"
        "         --hydra-help    Hydra's flags\n"
        "         docs/index.md   the manual"
    )
    usage = f"usage    {program} [GROUP=CHOICE] [KEY=VALUE] ..."
    return "\n".join([usage, *lines, *([""] if choices else []), *choices, "", *keys, "", more])


def _chosen(default: object) -> str:
    """The first choice of a list of defaults."""
    return str(default[0]) if isinstance(default, list) else str(default or "")


def _shown(file: Path) -> str:
    return f"# {file.parent.name}={file.stem}\n{file.read_text(encoding='utf-8').rstrip()}"
