"""Rank items for a user:            repel recommend RUN USER [k=10] [--exclude-known]
For somebody who has some items:   repel recommend RUN 'items=[ITEM,ITEM]' [k=10] [--exclude-known]

RUN is a run on users and items, or a checkpoint file; latest is the newest run. USER and ITEM are names, or numbers
where the data has no names. Prints rank, cosine, mark, class and name of each item. Marks: `hit`, an item that the user
has in the test split; `train`, `val`: in these; `given`. Somebody new is the mean of the items' unit vectors.
Options:

    --exclude-known    leave out what is known of the user: items of training and validation, or those given
    checkpoint=last    which of a run folder: last or best; default the one whose metrics are test/x
    data_root=DIR      the run's data, if it has moved
    --config-dir=DIR   the folder of YAML files that name the run's classes of your own, if it has any
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from repel.cli.latest import RUN, newest
from repel.cli.scripts import run_script
from repel.cli.suggestions import nearest

if TYPE_CHECKING:
    from repel.export.recommend import Recommended

OPTIONS = ("k", "items", "checkpoint", "data_root", "--config-dir", "--exclude-known")
USAGE = "name a run and a user, repel recommend RUN USER, or items: repel recommend RUN 'items=[ITEM,ITEM]'"


def parsed(arguments: list[str]) -> tuple[str, str | list[str], dict[str, str]]:
    """Run, the user or the items, and options.

    Raises:
        ValueError: one line that names the mistake.
    """
    typed = [a for a in arguments if re.match(r"[\w.-]+=", a) or a.startswith("--")]
    options = {key: value for key, _, value in (a.partition("=") for a in typed)}
    for key in options:
        if key not in OPTIONS:
            raise ValueError(f"unknown option {key}{nearest(key, list(OPTIONS))} (there are: {', '.join(OPTIONS)})")
    if options.get("--exclude-known"):
        raise ValueError("--exclude-known takes no value")
    named = [a for a in arguments if a not in typed]
    items = _names(options.pop("items")) if "items" in options else None
    if len(named) != (2 if items is None else 1):
        raise ValueError(USAGE)
    k = options.setdefault("k", "10")
    if not k.isdecimal() or int(k) < 1:
        raise ValueError(f"k must be a whole number, at least 1, got {k!r}")
    if options.get("checkpoint", "last") not in ("last", "best"):
        raise ValueError(f"checkpoint must be last or best, got {options['checkpoint']!r}")
    return newest(RUN, named[0], named[0]), named[1] if items is None else items, options


def _names(typed: str) -> list[str]:
    """Names as they were typed, without YAML's other types: 1e3 stays a name."""
    try:
        found = yaml.load(typed, yaml.BaseLoader)
    except yaml.YAMLError:
        found = None
    names = [found] if isinstance(found, str) and found else found
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"items must be a list of names, such as 'items=[libc6,zlib1g]', got {typed!r}")
    return names


def recommend(run: str, wanted: str | list[str], options: dict[str, str]) -> None:
    from repel.engine.targets import allow, allow_folder
    from repel.export.recommend import open_catalog, recommend_for_items, recommend_for_user  # torch

    if "--config-dir" in options:
        allow_folder(Path(options["--config-dir"]).expanduser())
        allow(roots=[str(Path.cwd())])
    catalog = open_catalog(run, options.get("checkpoint"), options.get("data_root"))
    k, without = int(options["k"]), "--exclude-known" in options
    if isinstance(wanted, str):
        print_ranking(recommend_for_user(catalog, wanted, k, without))
    else:
        print(f"somebody new: the mean of {len(wanted)} items' unit vectors")
        print_ranking(recommend_for_items(catalog, wanted, k, without))


def print_ranking(ranking: list["Recommended"]) -> None:
    from repel.evaluation.text_table import on_one_line

    rows = [[f"{rank:>3}", f"{one.cosine:.4f}", one.mark, one.label, on_one_line(one.name)]
            for rank, one in enumerate(ranking, 1)]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width]
        print("  ".join(cells).rstrip())


def main() -> int:
    """Rank items for a user of a run: RUN USER"""
    return run_script(__doc__, lambda typed: recommend(*parsed(typed)))
