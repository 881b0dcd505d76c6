"""The server from which ranks.py forks: itself forked from a process that has collected the tests, and so imported most
of what a command or a rank would import; a Python of its own would import it again.
"""

import logging
import os
import select
import socket
import sys
import threading
import traceback
from multiprocessing import connection, forkserver


def start() -> None:
    """Before any test: a process that has run a backward pass cannot be forked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address := connection.arbitrary_address("AF_UNIX"))
        listener.listen()
        alive_r, alive_w = os.pipe()  # whose end this process and all that are forked for it hold open
        pid = os.fork()
        if pid == 0:
            _serve(listener.fileno(), alive_r)
        os.close(alive_r)
    server = forkserver._forkserver  # as its ensure_running() leaves it
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive_w, pid


def _serve(listener: int, alive: int) -> None:
    try:
        _leave_pytest({0, 1, 2, listener, alive})
        if alive not in select.select([listener, alive], [], [])[0]:  # somebody asks
            import preloaded  # noqa: F401

            forkserver.main(listener, alive, [])
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def _leave_pytest(kept: set[int]) -> None:
    """What a Python of its own would not have: the tests' files and connections, and how they watch outputs."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in {int(name) for name in os.listdir("/proc/self/fd")} - kept - {null}:
        os.dup2(null, number, inheritable=False)  # not closed: whatever has the number may close it later
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, closefd=False, encoding="utf-8", errors="backslashreplace")
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
    logging.root.handlers.clear()
