"""The first batch's samples and views in TensorBoard."""

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from repel.data.datamodule import pair_data
from repel.evaluation.text_table import TextTable
from repel.monitoring.tensorboard import add_text

__all__ = ["ViewPairs"]


class ViewPairs(Callback):
    """The first samples of the first batch, their views, and what was drawn: `views/pairs` in TensorBoard.

    Args:
        pairs: samples shown.
    """

    def __init__(self, pairs: int):
        self.pairs = pairs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or not trainer.is_global_zero or trainer.global_step:
            return
        data = pair_data(trainer)
        shown: Any = data.splits.train.modality.view_pairs(data, self.pairs)
        for logger in loggers:
            if isinstance(shown, TextTable):
                add_text(logger.experiment, "views/pairs", shown.markdown(), 0)
            else:
                logger.experiment.add_image("views/pairs", np.array(shown), 0, dataformats="HWC")
