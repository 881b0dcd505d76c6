"""Standard output: escape codes for terminals alone, and a run that goes on when its output cannot be written."""

import contextlib
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["outlive_readers", "shown", "table_console"]

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe ended, as head does; a terminal was closed
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk of a log


class _Outliving(io.FileIO):
    """A stream of the process's that becomes /dev/null once its reader has gone, or its disk is full."""

    note = ""  # printed to stderr then

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE + FULL:
                raise
            full = error.strerror if error.errno in FULL else ""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())  # for what else of this process writes there, and for its children
        os.close(null)
        if self.note and self.fileno() != 2:
            with contextlib.suppress(OSError):
                why = f"the output cannot be written ({full})" if full else "nobody reads the output any more"
                os.write(2, f"note: {why}; {self.note}\n".encode())
        return memoryview(data).nbytes


def outlive_readers(note: str = "") -> None:
    """From here on a closed pipe, `python train.py | head`, or a full disk does not end what this process does.

    Letters that the output's encoding does not have are printed as escapes, instead of ending it.

    Args:
        note: what to say on stderr, behind the reason, when stdout can no longer be written.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed from the start, by `>&-`; the lowest free number, its own, is opened
            stream = open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if type(stream) is not io.TextIOWrapper:  # a test's or a notebook's
            continue
        if not isinstance(raw := getattr(stream.buffer, "raw", None), _Outliving):
            raw = _replace(name, stream)
        raw.note = note


def _replace(name: str, stream: io.TextIOWrapper) -> _Outliving:
    stream.flush()
    raw = _Outliving(stream.fileno(), "w", closefd=False)
    lines = stream.line_buffering or stream.write_through
    wrapped = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)
    setattr(sys, name, wrapped)
    return raw


def table_console() -> Any:
    """A rich console for stdout: no escape codes into files, FORCE_COLOR or not; words in brackets mean themselves."""
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    return Console(force_terminal=None if on_terminal else False, markup=False, emoji=False)


def shown(path: str | Path) -> str:
    """A path in one line that can be printed; names may hold line breaks, and bytes that are not UTF-8."""
    text = os.fsencode(path).decode(errors="replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
