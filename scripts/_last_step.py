"""A callback for a run whose end is measured: what the clocks say after the last step of training."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback


class LastStep(Callback):
    """Writes the time, and the process's CPU seconds so far, into a file."""

    def __init__(self, file: str):
        self.file = Path(file)

    def on_train_batch_end(self, *_: Any) -> None:
        self.clocks = {"time": time.time(), "cpu": time.process_time()}

    def on_train_epoch_end(self, *_: Any) -> None:
        self.file.write_text(json.dumps(self.clocks), encoding="utf-8")
