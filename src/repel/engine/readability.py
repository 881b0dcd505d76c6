"""What must be readable before training begins, although it is read when training is done."""

import torch
from omegaconf import DictConfig

from repel.data.datamodule import PairData
from repel.data.memory import TensorSamples
from repel.evaluation.features import BATCH

__all__ = ["check_test_images"]


def check_test_images(cfg: DictConfig, data: PairData) -> None:
    """Read the test split once, where each image is decoded when it is asked for and none may be skipped.

    It is evaluated when training is done, and a damaged file would take the results of all that.

    Raises:
        UnreadableSample: names the first that cannot be read.
    """
    test, evaluated = data.splits.test, data.labelled and cfg.get("evaluators")
    if evaluated and cfg.data.get("on_error") == "raise" and not isinstance(test, TensorSamples):
        for _ in test.plain(list(torch.arange(len(test)).split(BATCH))):
            pass
