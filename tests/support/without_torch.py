"""Runs a command once for each line of options, each in a process forked from this one, which has no torch.

python without_torch.py TYPED.json SCRIPT: writes answers.json, {options: [exit status, stdout, stderr]}. Files that a
command leaves in its folder are named on its stdout.
"""

import json
import os
import runpy
import sys
from pathlib import Path

from forked_main import end_as
from hydra.core.plugins import Plugins

import repel.cli.main  # noqa: F401  once, for all that are forked

Plugins.instance()


def run(script: str, options: list[str], out: Path, err: Path) -> None:
    sys.argv, sys.path[0] = [script, *options], str(Path(script).parent)
    end_as(lambda: runpy.run_path(script, run_name="__main__") and 0, out, err)


def answer(number: int, options: list[str], script: str) -> tuple[int, str, str]:
    folder, out, err = Path(f"{number}"), Path(f"{number}.out"), Path(f"{number}.err")
    folder.mkdir()
    child = os.fork()
    if not child:
        out, err = out.absolute(), err.absolute()
        os.chdir(folder)
        run(script, options, out, err)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [str(path) for path in folder.rglob("*") if path.is_file()]
    return status, out.read_text(encoding="utf-8") + "".join(left), err.read_text(encoding="utf-8")


if __name__ == "__main__":
    typed, script = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    answers = {line: answer(number, line.split(), script) for number, line in enumerate(typed)}
    Path("answers.json").write_text(json.dumps(answers), encoding="utf-8")
