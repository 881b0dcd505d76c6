"""What a forked process does in place of a command: its output in files, its exit status that of the command."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def end_as(main: Callable[[], object], out: str | Path, err: str | Path) -> None:
    """Call main() and end the process; nothing that the process above wanted to do at its end is done here."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    status = 1
    try:
        status = main() or 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
