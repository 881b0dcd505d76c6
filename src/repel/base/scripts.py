"""What a script begins with, before it imports what takes seconds."""

import signal
import sys

__all__ = ["begin_script", "without_comment"]


def begin_script(name: str) -> None:
    """From here on a ^C ends the process without a traceback, until it handles signals; and arguments have no comment.

    Python's own handler raises KeyboardInterrupt wherever it is, in the middle of an import, too.

    Args:
        name: `__name__` of the caller. Nothing is done where a test imports it.
    """
    if name != "__main__":
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where nohup or a script ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.argv[1:] = without_comment(sys.argv[1:])


def without_comment(arguments: list[str]) -> list[str]:
    """The arguments before a lone #: at its prompt, zsh takes a comment for words.

    >>> without_comment(["loss=ntxent", "#", "or", "infonce"])
    ['loss=ntxent']
    """
    return arguments[: arguments.index("#")] if "#" in arguments else arguments
