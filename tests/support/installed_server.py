"""Runs commands of an installed repel, each in a process forked from this one, which has imported everything once.

PYTHON installed_server.py: for every line on stdin, JSON of {arguments, cwd, out, err}, a line with the exit status.
"""

import importlib
import json
import os
import pkgutil
import sys

from forked_main import end_as
from hydra.core.plugins import Plugins

import repel
from repel.cli.main import main


def run(arguments: list[str], cwd: str, out: str, err: str) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(cwd)
    sys.argv = arguments
    end_as(main, out, err)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, which no user has
    for found in pkgutil.walk_packages(repel.__path__, "repel."):
        importlib.import_module(found.name)
    Plugins.instance()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
