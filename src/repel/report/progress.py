"""How far a final evaluation is."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from repel.base.terminal import table_console
from repel.evaluation.fit_progress import PROGRESS_SECONDS

__all__ = ["EvaluationProgress"]


class EvaluationProgress:
    """One bar on a terminal, gone at the end; elsewhere a line at the first stage that begins 20 s after the last line.

    Call it as measure calls on_stage.

    Args:
        enabled: whether this rank prints.
    """

    def __init__(self, enabled: bool):
        self.enabled, self.printed = enabled, time.perf_counter()
        self.bar: RichProgress | None = None

    def __enter__(self) -> "EvaluationProgress":
        console = table_console()
        if self.enabled and console.is_terminal:
            columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "{task.description}"
            self.bar = RichProgress("evaluation", *columns, console=console, transient=True)
            self.task = self.bar.add_task("", total=None)
            self.bar.start()
        return self

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, description=what)
        elif self.enabled and time.perf_counter() - self.printed >= PROGRESS_SECONDS:
            self.printed = time.perf_counter()
            print(f"evaluation {done}/{total}  {what}", flush=True)

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()
