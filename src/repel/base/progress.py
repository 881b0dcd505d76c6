"""How far work is that takes long: reading, a final evaluation."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from repel.base.terminal import table_console

__all__ = ["PROGRESS_SECONDS", "Progress"]

PROGRESS_SECONDS = 20.0


class Progress:
    """One bar on a terminal, gone at the end; elsewhere a line at the first call that is 20 s after the last line.

    Call it with how many parts are done, of how many (None: not known), and what is being done.

    Args:
        name: of the work.
        enabled: whether this rank prints.
    """

    def __init__(self, name: str, enabled: bool):
        self.name, self.enabled, self.printed = name, enabled, time.perf_counter()
        self.bar: RichProgress | None = None

    def __enter__(self) -> "Progress":
        console = table_console()
        if self.enabled and console.is_terminal:
            columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "{task.description}"
            self.bar = RichProgress(self.name, *columns, console=console, transient=True)
            self.task = self.bar.add_task("", total=None, start=True)
        return self

    def __call__(self, done: int, total: int | None, what: str) -> None:
        if self.bar is not None:
            self.bar.start()  # no bar where nothing takes long
            self.bar.update(self.task, completed=done, total=total, description=what)
        elif self.enabled and time.perf_counter() - self.printed >= PROGRESS_SECONDS:
            self.printed = time.perf_counter()
            print(f"{self.name} {done:,}{'' if total is None else f'/{total:,}'}  {what}", flush=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
