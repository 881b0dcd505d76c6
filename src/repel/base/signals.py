"""Signals that ask a run to stop: outside training they end it at once, in training they are noted and answered later.

Nothing is done inside a signal handler: a collective there would wait for ranks that are in the middle of another one.
"""

import signal
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
AGAIN = 2.0  # seconds after which a second ^C is another one, not the same one that came by two ways


class Stopped(BaseException):
    """A signal asked for the end; like KeyboardInterrupt no Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"

    @property
    def status(self) -> int:
        """What the process exits with: 130 for ^C, 143 for what a scheduler sends."""
        return 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)


def heeded() -> list[signal.Signals]:
    """Those that the process was not told to ignore, as nohup and a script's background jobs are."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def stop_at_once() -> None:
    """From here on a signal raises Stopped."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    for number in heeded():
        signal.signal(number, handler)


class Asked:
    """A context in which signals only set `number` (0: none); one that came unanswered raises Stopped at its end.

    A second ^C, two seconds later, does not wait.
    """

    def __init__(self):
        self.number, self.since = 0, 0.0

    def __enter__(self) -> "Asked":
        self.numbers = heeded()
        self.before = {number: signal.getsignal(number) for number in self.numbers}
        for number in self.numbers:
            signal.signal(number, self.note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.number and kind is None:
            raise Stopped(self.number)

    def note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and number == signal.SIGINT and now - self.since > AGAIN:
            raise KeyboardInterrupt
        self.number, self.since = self.number or number, self.since or now


def leave_to_parent(worker: int) -> None:
    """In a data worker: a signal to the whole group is its parent's to answer."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
