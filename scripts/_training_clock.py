"""A callback for benchmark_training.py, which runs in this checkout and in older ones: it needs Lightning alone."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback


class TrainingClock(Callback):
    """Writes a JSON file: seconds by the clock and CPU seconds from before the first step to the end of the last.

    Validation between them counts, and writing checkpoints; start-up, reading the data and the evaluation do not.

    Args:
        file: to write.
    """

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
