"""The first batch's images and views in TensorBoard."""

from collections.abc import Sequence

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from repel.data.datamodule import pair_data
from repel.images.contact_sheet import contact_sheet, preview

__all__ = ["PairsGrid"]


class PairsGrid(Callback):
    """A contact sheet of the first batch in TensorBoard, `views/pairs`: images, their views, the drawn parameters.

    Args:
        pairs: images shown.
        mean, std: per channel, to undo the normalization.
    """

    def __init__(self, pairs: int, mean: Sequence[float], std: Sequence[float]):
        self.pairs, self.mean, self.std = pairs, tuple(mean), tuple(std)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or not trainer.is_global_zero or trainer.global_step:
            return
        data = pair_data(trainer)
        sheet = contact_sheet(preview(data, self.pairs), self.mean, self.std)
        for logger in loggers:
            logger.experiment.add_image("views/pairs", np.array(sheet), 0, dataformats="HWC")
