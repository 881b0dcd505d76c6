"""Exit statuses, and the line that says why a run failed. Imports neither torch nor lightning."""

import dis
import errno
import re
import traceback

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from repel.engine.targets import is_own_package

__all__ = ["CRASHED", "DIVERGED", "MISTAKE", "MORE_SHARED_MEMORY", "RankFailed", "explain", "is_mistake", "one_line"]

CRASHED, MISTAKE, DIVERGED = 1, 2, 3  # exit statuses; 0: done; 130 and 143: stopped by a signal
# exceptions that report a user's mistake, by name: importing their modules would import torch
MISTAKE_NAMES = ("MisconfigurationException", "UnreadableSample")
RAISE = dis.opmap["RAISE_VARARGS"]  # a raise statement

MORE_SHARED_MEMORY = "give it more (docker run --shm-size=8g), or use fewer data.workers, 0 for none"


class RankFailed(Exception):
    """A rank ended in failure. Its exit status and its line are those of the rank, its traceback is a note.

    Args:
        status: CRASHED, MISTAKE or DIVERGED.
        message: one line for the user.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def one_line(error: BaseException | str) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())


def explain(error: Exception) -> tuple[int, str]:
    """Exit status and one line for the exception that ended a run."""
    if isinstance(error, RankFailed):
        return error.status, str(error)
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if isinstance(cause, ValueError) and not _is_plain(cause):
            return explain(cause)
        if isinstance(cause, ValueError) and "full_key: encoder.item_text" in str(error):
            return MISTAKE, one_line(cause).replace("encoder.", "encoder.item_text.")  # it names options as if alone
        return MISTAKE, one_line(cause if isinstance(cause, ValueError) else error)
    if isinstance(error, OmegaConfBaseException) and re.match("Missing key |Key '.*' is not in struct", str(error)):
        return MISTAKE, f"{error.full_key} is missing from the config"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return MISTAKE, one_line(str(error).partition("\n")[0])
    if isinstance(error, ValueError) and is_mistake(error):
        return MISTAKE, one_line(error)
    if type(error).__name__ in MISTAKE_NAMES:
        return MISTAKE, one_line(error)
    if type(error).__name__ == "Diverged":
        return DIVERGED, one_line(error)
    if _lacks_shared_memory(error):
        return MISTAKE, f"{one_line(error)}: /dev/shm, where workers leave batches, is full; {MORE_SHARED_MEMORY}"
    return CRASHED, f"{type(error).__name__}: {one_line(error)}" if one_line(error) else _where(error)


def is_mistake(error: ValueError) -> bool:
    """Whether a ValueError says what is wrong with what a user wrote: by a `raise` of this project or of own parts.

    What Python or a library raises is a crash: it does not know what was typed. So is a UnicodeEncodeError, a
    JSONDecodeError or another kind of ValueError that a library defines, wherever it comes from.
    """
    if not _is_plain(error):
        return False
    place = error.__traceback__
    if place is None:  # never raised
        return True
    while place.tb_next is not None:
        place = place.tb_next
    raised = place.tb_frame.f_code.co_code[place.tb_lasti] == RAISE  # int("x") in our own code is a crash, too
    return raised and _is_ours(place.tb_frame.f_globals.get("__name__"))


def _is_plain(error: ValueError) -> bool:
    return type(error) is ValueError or _is_ours(type(error).__module__)


def _is_ours(module: str | None) -> bool:
    """Whether a module is this project's, or of a package of the user's own."""
    top = (module or "").split(".")[0]
    return top in ("repel", "__main__") or is_own_package(top)


def _lacks_shared_memory(error: Exception) -> bool:
    """Semaphores and batches of data workers that found no place: none names a file of the user's."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return error.filename is None and any("multiprocessing" in f.filename for f in _frames(error))
    words = str(error)
    return isinstance(error, RuntimeError) and ("unable to write to file </torch_" in words or "Bus error" in words)


def _frames(error: Exception) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _where(error: Exception) -> str:
    """A line for an exception without a message: what it is, and the place that raised it."""
    frames = _frames(error)
    place = f" in {frames[-1].name} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{place}"
