"""Shared by the benchmarks that train: Lightning's loop as train.py runs it, without what is around it."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from repel.base.allocator import keep_freed_memory
from repel.data.datamodule import PairData
from repel.engine.build import build_trainer
from repel.engine.fit import SILENCED
from repel.module import Contrastive

BARE = ["callbacks=none", "callbacks.last=null", "callbacks.best=null", "logger=none", "trainer.limit_val_batches=0"]


def fit(cfg: Any, module: Contrastive, data: PairData, folder: Path, callbacks: Sequence[Callback] = ()) -> None:
    """Train as train.py does, without what it prints and writes around it."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    trainer = build_trainer(cfg, folder)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    trainer.fit(module, data)
