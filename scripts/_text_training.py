"""Shared by the benchmarks on texts: training on texts that a script has in memory, by the config of train.py."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from _benchmark import compose_config
from omegaconf import OmegaConf
from torch import Tensor, nn

from repel.base.modes import evaluation_mode
from repel.data.datamodule import PairData
from repel.data.samples import Splits
from repel.engine.build import build_data, build_module
from repel.module import Contrastive
from repel.text.texts import RawTexts

BLOCK = 256  # texts that are encoded at a time


def text_config(*overrides: str) -> Any:
    """The config of `python train.py experiment=text ...`."""
    return OmegaConf.create(OmegaConf.to_container(compose_config("experiment=text", *overrides), resolve=True))


def prepare(cfg: Any, splits: Splits) -> tuple[Contrastive, PairData]:
    """The network and the data, which are these texts; what the network must know of them it is told."""
    module, data = build_module(cfg), build_data(cfg)
    data.reader = lambda: splits
    data.setup()
    module.give_data_info(data.info())
    return module, data


def text_encoder(encoder: nn.Module, tokenize: Callable[[RawTexts], Any]) -> Callable[[Sequence[str]], Tensor]:
    """Texts (N,) -> features (N, F), without dropout; the encoder stays in the mode in which it is.

    Lightning trains a network in the mode in which it gets it: one that was left in evaluation mode has no dropout.
    """
    device = next(encoder.parameters()).device

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor:
        batches = tokenize(RawTexts.of(texts)).plain(list(torch.arange(len(texts)).split(BLOCK)))
        with evaluation_mode(encoder):
            return torch.cat([encoder(x.to(device)).cpu() for x, _ in batches])

    return encode
