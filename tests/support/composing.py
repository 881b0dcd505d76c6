"""Hydra's compose, quicker: what a choice of groups gives is composed once, the values typed beside it are set in that.

And what Hydra itself composes, here or in a forked command, comes of files of conf/ that are parsed once a process: a
command composes four times, of some forty files. tests/cli/test_composing.py compares both with Hydra's own.
"""

import atexit
import copy
import functools
import hashlib
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import omegaconf.base
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

import repel.cli.resolvers  # noqa: F401 - which conf/ uses

CONF = Path(__file__).parents[2] / "conf"
_parse = OmegaConf.load


@functools.cache
def _parsed(path: str) -> DictConfig:
    return _parse(path)


def _load(file: Any) -> Any:
    """OmegaConf.load of a path, or of an open file."""
    path = str(file if isinstance(file, str | Path) else getattr(file, "name", ""))
    return copy.deepcopy(_parsed(path)) if path.startswith(f"{CONF}{os.sep}") else _parse(file)


OmegaConf.load = staticmethod(_load)
for module in (omegaconf.base, omegaconf._utils):
    module.parse = functools.cache(module.parse)  # of an interpolation; what it gives is only read


@functools.cache
def _of_choices(name: str, choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(choices), return_hydra_config=True)


def composed(name: str, overrides: list[str], hydra: bool = False) -> DictConfig:
    """As hydra.compose(name, overrides, return_hydra_config=hydra)."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    is_choice = [(CONF / override.key_or_group).is_dir() for override in parsed]
    choices = tuple(o.input_line for o, choice in zip(parsed, is_choice, strict=True) if choice)
    cfg = copy.deepcopy(_of_choices(name, choices))
    values = [o for o, choice in zip(parsed, is_choice, strict=True) if not choice]
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    cfg.hydra.overrides.task = list(overrides)
    if not hydra:
        with open_dict(cfg):
            del cfg["hydra"]
    return cfg


if "COMPOSED" not in os.environ:  # a folder of this session, which its workers and their ranks read too
    os.environ["COMPOSED"] = tempfile.mkdtemp(prefix="composed_")
    atexit.register(shutil.rmtree, os.environ["COMPOSED"], ignore_errors=True)


@functools.cache
def resolved(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Plain containers, shared: not to be changed."""
    file = Path(os.environ["COMPOSED"]) / hashlib.sha256(repr((name, overrides)).encode()).hexdigest()
    if not file.exists():
        made = OmegaConf.to_container(composed(name, list(overrides)), resolve=True)
        whole = file.with_suffix(f".{os.getpid()}")
        whole.write_bytes(pickle.dumps(made))
        whole.replace(file)
    return pickle.loads(file.read_bytes())
