"""`latest`, which stands for the newest run, sweep or folder of features wherever one is named.

`latest` looks where the commands put what they make, below the working directory; `DIR/latest` looks in DIR. A file or
folder of that name is what is meant where there is one.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from repel.cli import slurm
from repel.cli.folders import SHOWING

__all__ = ["EMBEDDED", "RUN", "SWEEP", "newest", "with_latest"]

WORD = "latest"


class Kind(NamedTuple):
    """What can be named: in words, and the folders where the commands make it."""

    words: str
    places: tuple[str, ...]


RUN = Kind("run with a checkpoint", ("runs/train", "sweeps/train"))  # the jobs of a sweep are runs
SWEEP = Kind("sweep", ("sweeps/train",))
EMBEDDED = Kind("folder that embed.py wrote", ("runs/embed", "sweeps/embed"))
OPTIONS = {"resume": RUN, "ckpt": RUN, "init": RUN, "sweep.resume": SWEEP}


def with_latest(arguments: list[str]) -> list[str]:
    """A command's arguments, `latest` replaced by what it stands for.

    Raises:
        ValueError: there is no run or sweep, or the newest run may be a job of the sweep that is resumed.
    """
    keys = [argument.partition("=")[0] for argument in arguments]
    if "sweep.resume" in keys and f"init={WORD}" in arguments:
        raise ValueError(
            f"init={WORD} beside sweep.resume= may be a job of that sweep: type the run that the sweep began with, "
            "which `overrides` in a job's environment.json has"
        )
    return [
        f"{key}={newest(OPTIONS[key], argument.partition('=')[2], argument)}" if key in OPTIONS else argument
        for key, argument in zip(keys, arguments, strict=True)
    ]


def newest(kind: Kind, named: str, typed: str) -> str:
    """The newest of a kind, where it is named latest, and a line that says which; else as named.

    Args:
        named: what may be latest.
        typed: the argument that it is a part of, for the line.

    Raises:
        ValueError: there is none.
    """
    path = Path(named).expanduser()
    if path.name != WORD or path.exists():
        return named
    places = [Path(place) for place in kind.places] if named == WORD else [path.parent]
    found = slurm.first_meaning(typed, lambda: _newest(kind, places, typed))
    _say(f"latest   {typed} is {found}")
    return found


def _say(line: str) -> None:
    showing = SHOWING & {argument.partition("=")[0] for argument in sys.argv}  # only the config is to be printed
    print(line, file=sys.stderr if showing else sys.stdout, flush=True)


def _newest(kind: Kind, places: Iterable[Path], typed: str) -> str:
    begun = [path.parent for place in places for each in ("*", "*/*") for path in place.glob(f"{each}/config.yaml")]
    found = begun
    if kind is RUN:
        found = [folder for folder in begun if any((folder / "checkpoints").glob("*.ckpt"))]
    if kind is SWEEP:  # by its first job
        first = {job.parent: job for job in sorted(found, key=_time, reverse=True) if job.parent not in places}
        found = list(first.values())
    if not found:
        raise ValueError(f"{typed}: there is no {kind.words} in {' or '.join(map(str, places))}")
    folder = max(found, key=_time)
    if kind is RUN and (newer := sum(_time(other) > _time(folder) for other in begun)):
        _say(f"note     {newer} newer without a checkpoint")
    return str(folder.parent if kind is SWEEP else folder)


def _time(folder: Path) -> int:
    """When a run began: its config.yaml is written once."""
    return (folder / "config.yaml").stat().st_mtime_ns
