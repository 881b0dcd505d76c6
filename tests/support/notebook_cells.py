"""A notebook's cells as a kernel runs them, in a process that is forked: no kernel has to start and import."""

import json
import os
from pathlib import Path

import torch


def run(cells: list[str], folder: str, out: str) -> None:
    """Run them in a folder; the file `out` gets what each displayed, a list of {mime type: text}."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui=None):
            """There is none to enable: figures are shown inline."""

    torch.set_num_threads(1)
    os.chdir(folder)
    shell = Shell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    displayed = []
    for cell in cells:
        with shell.display_trap, capture_output() as captured:  # within the trap, which sets the hook that is captured
            result = shell.run_cell(cell)
        print(captured.stdout, captured.stderr)
        result.raise_error()
        displayed += [{kind: str(data)[:200] for kind, data in output.data.items()} for output in captured.outputs]
    Path(out).write_text(json.dumps(displayed), encoding="utf-8")
