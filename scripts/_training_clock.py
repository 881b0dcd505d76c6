"""Runs a checkout's train.py with a clock in Lightning's loop, for benchmark_training.py: it needs Lightning alone.

    python scripts/_training_clock.py FILE CHECKOUT/train.py [what train.py takes]

FILE, in JSON: seconds by the clock and CPU seconds from before the first step to the end of the last. Validation
between them counts, and writing checkpoints; start-up, reading the data and the evaluation do not.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

__all__ = ["TrainingClock"]


class TrainingClock(Callback):
    """Args: file: to write."""

    def __init__(self, file: str):
        self.file, self.began, self.ended = Path(file), (0.0, 0.0), (0.0, 0.0)

    def on_train_start(self, *_: Any) -> None:
        self.began = _now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.ended = _now()

    def on_train_end(self, *_: Any) -> None:
        wall, cpu = (end - start for start, end in zip(self.began, self.ended, strict=True))
        self.file.write_text(json.dumps({"wall": wall, "cpu": cpu}), encoding="utf-8")


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    file, script, *options = sys.argv[1:]
    fit = Trainer.fit

    def timed_fit(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.callbacks.append(TrainingClock(file))  # type: ignore[attr-defined]
        fit(trainer, *args, **kwargs)

    Trainer.fit = timed_fit  # type: ignore[method-assign]
    sys.argv = [script, *options]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
