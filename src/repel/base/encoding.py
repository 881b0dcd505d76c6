"""Names of files, and what programs say, are UTF-8, whatever the locale."""

import os
import sys

__all__ = ["restart_in_utf8_mode"]


def restart_in_utf8_mode() -> None:
    """Start this program again in Python's UTF-8 mode (PEP 540) where the locale has another, as LC_ALL=C has.

    There, the letters of a file's name beyond ASCII would be no letters, and no table of labels would know them. The
    environment says it to the ranks and workers that this process starts.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, sys.orig_argv)
