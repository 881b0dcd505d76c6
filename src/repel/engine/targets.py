"""What a config may call: a config is data, also one that comes out of a checkpoint, and must not be a program.

A `_target_` may be

- what a file in conf/ names, of this package;
- a class of torch.nn, torch.optim, Lightning's callbacks and loggers, Optuna's pruners;
- a class or function that a package of the user's own defines: one that is not installed (it is found in the working
  directory, beside the folder of --config-dir, or on PYTHONPATH), is installed as editable, or requires repel.

Nothing else of other packages is called, wherever the name stands and however it is spelled: os.system, torch.load,
builtins.eval, or repel.engine.fit.torch.load. A config that comes from a file, rather than from conf/, --config-dir,
hydra.searchpath or the command line, may name the third kind only where one of these folders names it too.
"""

import functools
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from repel.base.installation import CONF

__all__ = [
    "CONF",
    "allow",
    "allow_folder",
    "allowed",
    "check_objects",
    "check_targets",
    "is_own_package",
    "targets",
]

CLASSES = r"(torch\.(optim|nn)|lightning\.pytorch\.(callbacks|loggers)|optuna\.pruners)\.[A-Za-z]\w*"
TRAINER = "lightning.pytorch.Trainer"
# never a user's own, wherever they were found
LIBRARIES = ("repel", "torch", "torchvision", "lightning", "hydra", "omegaconf", "numpy", "optuna", "yaml", "PIL")
NAMED = re.compile(r"""^[^#\n]*?_target_['"]?\s*:\s*['"]?([\w.]+)""", re.MULTILINE)

# this process's trust, as sys.path is: names that configs out of files may use too, and where packages may be found
_names: set[str] = set()
_roots: list[str] = []


def targets(config: Any) -> Iterator[str]:
    """Every _target_ at any depth, in lists too."""
    if isinstance(config, dict):
        yield from [str(config["_target_"])] if "_target_" in config else []
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from targets(item)


def allow(names: Iterable[str] = (), roots: Iterable[str] = ()) -> None:
    """In this process, configs out of files may call these names too.

    Args:
        names: of classes and functions of the user's own packages.
        roots: folders in which such a package is looked for if it is not importable.
    """
    _names.update(names)
    _roots.extend(root for root in roots if root not in _roots)


def allow_folder(folder: Path) -> None:
    """In this process, configs out of files may call what the YAML files of a folder name, as with --config-dir."""
    allow(_names_in(folder), [str(folder.resolve().parent)])


def allowed() -> dict[str, list[str]]:
    """What allow() has got, for the ranks of this run."""
    return {"names": sorted(_names), "roots": list(_roots)}


def check_targets(config: Any, from_file: bool = False) -> None:
    """Check the names of everything that a config calls. Imports none of it.

    Args:
        config: plain containers, resolved.
        from_file: it comes out of a checkpoint or a run folder.

    Raises:
        ValueError: names the _target_, and says what to do.
    """
    for target in targets(config):
        if (target in _project_names() and target.startswith("repel.")) or _is_known_class(target):
            continue
        if from_file and target not in _names | _project_names():
            raise ValueError(
                f"_target_={target}: a config out of a file may call only what conf/ names; if you trust this one, "
                "add --config-dir=DIR, a folder with a YAML file that names it"
            )
        _check_own(target)


def check_objects(config: Any) -> None:
    """Check everything that a config calls, and import it.

    Raises:
        ValueError: as check_targets; or it is not a class or function that a package of the user's own defines.
    """
    check_targets(config)
    for target in targets(config):
        if not target.startswith("repel.") and not _is_known_class(target):
            _check_definition(target)


def _is_known_class(target: str) -> bool:
    return target == TRAINER or bool(re.fullmatch(CLASSES, target))


@functools.cache
def _project_names() -> frozenset[str]:
    return frozenset(_names_in(CONF))


def _names_in(folder: Path) -> set[str]:
    """What the YAML files of a config folder name. Run folders in it do not count: they may be someone else's."""
    names: set[str] = set()
    for place, folders, files in os.walk(folder):
        if Path(place) != folder and {"config.yaml", "checkpoints"} & {*folders, *files}:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if file.endswith(".yaml"):
                names.update(NAMED.findall((Path(place) / file).read_text(encoding="utf-8", errors="replace")))
    return names


def _check_own(target: str) -> None:
    """Raises ValueError where a name is not one of a package of the user's own."""
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(f"_target_={target} is not the dotted name of a class or function")
    folder = _package_folder(parts[0])
    if folder is None:
        raise ValueError(
            f"_target_={target}: there is no package {parts[0]}; install it, or have its folder in the working "
            "directory or beside the folder of --config-dir"
        )
    if not _is_own(parts[0], folder):
        raise ValueError(
            f"_target_={target}: a config may call what conf/ names, classes of torch.optim and torch.nn, and what a "
            f"package of your own defines; {parts[0]} is none: call it from a function of your own"
        )
    allow(roots=[str(folder)])  # the ranks must find it too


def is_own_package(top: str) -> bool:
    """Whether a top-level package or module is the user's own."""
    folder = _package_folder(top) if top else None
    return folder is not None and _is_own(top, folder)


def _package_folder(top: str) -> Path | None:
    """The folder that a top-level package or module is in, which is put on sys.path if need be; None: not found."""
    spec = _find(top)
    for root in _roots if spec is None else ():
        if (Path(root) / top).is_dir() or (Path(root) / f"{top}.py").is_file():
            sys.path.append(root)  # at the end: nothing that is installed is shadowed
            importlib.invalidate_caches()
            spec = _find(top)
            break
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or [spec.origin or "built-in"]
    return Path(places[0]).parent


def _find(top: str) -> Any:
    # files first: who asks every finder for pip takes distutils out of setuptools, and torch.compile then fails
    spec = None if top in sys.modules else PathFinder.find_spec(top)
    try:
        return spec or importlib.util.find_spec(top)
    except ValueError:  # of __main__
        return None


@functools.cache
def _is_own(top: str, folder: Path) -> bool:
    """Whether a package is the user's own: not installed, or made to be used with this one."""
    if top in LIBRARIES or top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return False
    distribution = _distribution(top, folder)
    if distribution is not None:
        return any(re.match(r"repel\b(?![-.])", requirement) for requirement in distribution.requires or ())
    installed = {"site-packages", "dist-packages"} & set(folder.parts)
    return not installed and folder != Path(sysconfig.get_path("stdlib"))


def _distribution(top: str, folder: Path) -> Distribution | None:
    """What was installed into the folder and brought the package."""
    for info in folder.glob("*.dist-info"):
        found = Distribution.at(info)
        listed = (found.read_text("top_level.txt") or "").split()
        if top in (listed or {file.parts[0].removesuffix(".py") for file in found.files or ()}):
            return found
    return None


def _check_definition(target: str) -> None:
    """Raises ValueError where a name of an own package is not a class or function that such a package defines."""
    from hydra.utils import get_object

    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"_target_={target}: {module} cannot be imported ({error})") from error
    if found is None:
        raise ValueError(f"_target_={target}: {module} has no {name}")
    top = str(getattr(found, "__module__", "")).split(".")[0]
    defined = isinstance(found, type | types.FunctionType) and is_own_package(top)
    if not defined or get_object(target) is not found:
        raise ValueError(
            f"_target_={target}: {name} is not a class or function that {module.split('.')[0]} defines; call it from a "
            "function of your own"
        )
