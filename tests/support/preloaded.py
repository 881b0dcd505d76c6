"""Imported once by the server from which ranks.py forks: whatever a command or a rank would import by itself.

Imports alone: a process that has run a backward pass cannot be forked.
"""

import gc
import importlib
import pkgutil

gc.disable()  # all of it stays

import faults  # noqa: F401
import timm  # noqa: F401
from composing import CONF
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

import repel

for found in pkgutil.walk_packages(repel.__path__, "repel."):
    importlib.import_module(found.name)
for file in CONF.rglob("*.yaml"):
    OmegaConf.load(file)  # composing.py keeps it
Plugins.instance()  # Hydra looks for them in every module of hydra_plugins
gc.freeze()  # so that no process that is forked looks through it, and copies it by that
gc.enable()
