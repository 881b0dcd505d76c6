"""A run's lock: one process at a time trains in a folder, and others see whether one does."""

import fcntl
import time
from pathlib import Path
from typing import TextIO

__all__ = ["is_locked", "lock", "locked", "unlock"]

locked: dict[Path, TextIO] = {}  # this process's runs: the lock is on config.yaml


def lock(folder: Path) -> None:
    """Keep other processes from a run until unlock(), or until this process ends, however it ends.

    Raises:
        ValueError: another process holds the lock, or the folder cannot be written.
    """
    try:
        file = (folder / "config.yaml").open("r+", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}): a run goes on in its own folder") from error
    for last in (False,) * 9 + (True,):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if last:
                file.close()
                raise ValueError(f"{folder} is still running in another process; wait for it, or end it") from None
            time.sleep(0.1)  # another process may only be testing the lock, see is_locked
        except OSError:
            break  # a file system without locks, as some clusters have: no process can be kept away
    locked[folder] = file


def unlock(folder: Path) -> None:
    if file := locked.pop(folder, None):
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a worker has inherited the file
        file.close()


def is_locked(folder: Path) -> bool:
    """Whether a process runs in the folder now."""
    with (folder / "config.yaml").open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False
