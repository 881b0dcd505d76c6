"""Imported once by the server from which ranks.py forks: whatever a command or a rank would import by itself.

Imports alone: a process that has run a backward pass cannot be forked.
"""

import importlib
import pkgutil

import faults  # noqa: F401
import timm  # noqa: F401
from hydra.core.plugins import Plugins

import repel

for found in pkgutil.walk_packages(repel.__path__, "repel."):
    importlib.import_module(found.name)
Plugins.instance()  # Hydra looks for them in every module of hydra_plugins
