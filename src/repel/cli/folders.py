"""A folder of its own for every run, sweep and export, also for those that start in the same second.

Folders are named by date, time and name. `mkdir` is atomic, on network file systems too: of several processes that want
one name, one gets it, and the others _2, _3, ...
"""

import contextlib
import errno
import sys
from itertools import count
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from repel.cli import slurm
from repel.engine import runs

__all__ = ["cannot_make", "make_folder", "out_folder", "own_folder", "run_folder", "sweep_folder"]

SHOWING = {"--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help"}  # Hydra's flags that run nothing


def make_folder(new: str) -> str:
    """Make a folder of this name, or with _2, _3, ... where the name is taken.

    Raises:
        ValueError: it cannot be made; one line with the place and the fix.
    """
    try:
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = new if number == 1 else f"{new}_{number}"
            with contextlib.suppress(FileExistsError):
                Path(folder).mkdir()
                break
    except OSError as error:
        raise ValueError(cannot_make(error)) from error
    return folder


def own_folder(new: str, *, _root_: DictConfig) -> str:
    """A resolver: a new folder, the same one whenever a config is asked for it, or a job of its sweep.

    Not ${now:}'s kind of cache: Hydra also asks while it still composes the config, or only to show it.
    """
    made = OmegaConf.get_cache(_root_)["own_folder"]  # Hydra hands it to a sweep's jobs, other processes included
    if new not in made:
        composed = OmegaConf.select(_root_, "hydra.runtime.cwd") is not None  # set last
        if not composed or SHOWING & {argument.partition("=")[0] for argument in sys.argv}:
            return new
        made[new] = make_folder(new)
    return made[new]


def cannot_make(error: OSError) -> str:
    """One line for a folder that could not be made: which, why, and what to do."""
    wanted = Path(str(error.filename))
    instead = "start in another folder, or name a place by hydra.run.dir=DIR (a sweep: hydra.sweep.dir=DIR)"
    if any(argument.startswith("out=") for argument in sys.argv):
        instead = "name another folder by out=DIR"
    if error.errno == errno.ENAMETOOLONG:
        return f"the file system takes no name of {len(wanted.name)} letters, {wanted.name[:40]}...; use a shorter name"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        file = next((path for path in (wanted, *wanted.parents) if path.exists() and not path.is_dir()), wanted)
        return f"{file} is a file, and {wanted} is to be a folder: rename that file; or {instead}"
    return f"cannot make the folder {wanted} ({error.strerror}): {instead}"


def run_folder(resume: str | None, new: str, *, _root_: DictConfig) -> str:
    """A run's folder: the one that resume names, or where a requeued SLURM job began it, or a new one."""
    if resume:
        return str(runs.find(resume))
    return slurm.earlier_folder(Path(new).parent) or own_folder(new, _root_=_root_)


def sweep_folder(resume: str | None, new: str, *, _root_: DictConfig) -> str:
    """A sweep's folder: the one that sweep.resume names, or where a requeued SLURM job began it, or a new one.

    Raises:
        ValueError: sweep.resume is not a folder.
    """
    if resume and not Path(str(resume)).expanduser().is_dir():
        raise ValueError(f"sweep.resume={resume}: there is no such folder; name one that a sweep was run in")
    if resume:
        return str(Path(str(resume)).expanduser())
    return slurm.earlier_folder(Path(new).parent) or own_folder(new, _root_=_root_)


def out_folder(out: str | None, new: str, *, _root_: DictConfig) -> str:
    """The folder that out= names, or a new one."""
    return str(out) if out else own_folder(new, _root_=_root_)
