"""Signals that ask a run to stop: outside training they end it at once, in training they are recorded for later.

Nothing is done inside a signal handler: a collective there would wait for ranks that are in the middle of another one.
"""

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = [
    "SIGNALS",
    "DeferredSignals",
    "Stopped",
    "active_signals",
    "ends_on_signal",
    "follow_parent",
    "raise_on_signal",
]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SECOND_AFTER = 2.0  # seconds after which a ^C is a second one, not the first one that came by two ways


class Stopped(BaseException):
    """A signal asked the process to end. Like KeyboardInterrupt not an Exception: it is no failure."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"

    @property
    def status(self) -> int:
        """The process's exit status: 130 for ^C, 143 for what a scheduler sends."""
        return 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)


def active_signals() -> list[signal.Signals]:
    """Signals whose handler is not SIG_IGN, as nohup sets it, and a script for its background jobs."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def raise_on_signal() -> None:
    """From here on a signal raises Stopped."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    for number in active_signals():
        signal.signal(number, handler)


def ends_on_signal(main: Callable[..., int | None]) -> Callable[..., int | None]:
    """Decorate a script's main(): a ^C or a scheduler's signal ends it with a line and its status, no traceback."""

    @functools.wraps(main)
    def command(*arguments: Any) -> int | None:
        raise_on_signal()
        try:
            return main(*arguments)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return stopped.status

    return command


class DeferredSignals:
    """A context in which a signal only sets `number` (0: none). If it is still set at the end, Stopped is raised.

    A second ^C, two seconds later, raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.number, self.since = 0, 0.0
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "DeferredSignals":
        self.handlers = {number: signal.getsignal(number) for number in active_signals()}
        for number in self.handlers:
            signal.signal(number, self._record)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.number and kind is None:
            raise Stopped(self.number)

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and number == signal.SIGINT and now - self.since > SECOND_AFTER:
            raise KeyboardInterrupt
        self.number, self.since = self.number or number, self.since or now


def follow_parent(worker: int) -> None:
    """In a data worker: a signal to the whole process group is for its parent to handle; it ends when that one ends.

    torch's own watch looks at the process that forked the worker. From Python 3.14 on that is a fork server, which
    lives as long as the workers do: after a kill -9 of the run all would stay.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(process: Any) -> None:
    process.join()
    os._exit(1)
