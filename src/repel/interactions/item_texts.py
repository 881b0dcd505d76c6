"""Texts of items, and the part of a tower that sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.sized import SizedByData
from repel.data.samples import DataInfo

__all__ = ["ItemTextEncoder", "ItemTexts", "Tokenize"]

Tokenize = Callable[[Sequence[str]], tuple[Tensor, DataInfo, Tensor]]


@dataclass(frozen=True, eq=False)
class ItemTexts:
    """What is written of each item, and how it becomes tokens, once an encoder asks for them.

    texts: a string an item, empty where there is none.
    tokenize: these -> token ids (items, L) int32, 0 where a text is shorter; what a text encoder's on_data takes; and
        (1,) int64, which vocabulary this is. The same for the same texts, in every process.
    """

    texts: Sequence[str]
    tokenize: Tokenize

    @cached_property
    def tokens(self) -> tuple[Tensor, DataInfo, Tensor]:
        return self.tokenize(self.texts)


class ItemTextEncoder(SizedByData):
    """Numbers of items (n,) -> what their texts tell (n, F): P h / |h|, h the text encoder's features of the tokens.

    0 for an item without a text. What it gives is about as long as a vector of random_vectors, whatever the encoder's
    features are. It needs neither texts nor tokenizer where it is used: the tokens are in its buffers.

    Args:
        encoder: token ids (n, L), 0 where a text is shorter -> (n, T), with `out_features`, T: one of repel.text.
        width: F.

    Raises:
        ValueError: in on_data: the data brings no texts.

    Example:
        >>> from types import SimpleNamespace
        >>> encoder = nn.EmbeddingBag(10, 3)
        >>> encoder.out_features = 3
        >>> made = torch.tensor([[4, 7], [0, 0]], dtype=torch.int32), DataInfo(1), torch.ones(1, dtype=torch.int64)
        >>> part = ItemTextEncoder(encoder, width=5)
        >>> part.on_data(SimpleNamespace(item_texts=ItemTexts(["red bird", ""], lambda texts: made)))
        >>> (part(torch.tensor([0, 1])) == 0).all(1).tolist()
        [False, True]
    """

    shows_data = True
    weights_of = "vocabulary"
    tokens: Tensor
    vocabulary: Tensor

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        features: Any = encoder.out_features
        self.projection = nn.Parameter(torch.randn(features, width) * width**-0.5)  # P, transposed
        self.register_buffer("tokens", torch.zeros(0, 0, dtype=torch.int32))  # (items, L)
        self.register_buffer("vocabulary", torch.zeros(1, dtype=torch.int64))  # which one: weights know tokens by ids

    def on_data(self, info: DataInfo) -> None:
        tokens, _, vocabulary = _texts_of(info).tokens
        # own copies: the target has the same, and each moves to a device by itself
        self.tokens = tokens.to(self.tokens.device, copy=True)
        self.vocabulary = vocabulary.to(self.vocabulary.device, copy=True)

    def info_within(self, info: DataInfo) -> DataInfo:
        return _texts_of(info).tokens[1]

    def forward(self, items: Tensor) -> Tensor:
        if not self.training and items.device.type == "cpu" and not torch.compiler.is_compiling():
            # each text once; elsewhere how many there are is not known without waiting for the device
            different, places = items.unique(return_inverse=True)
            return self.features(different)[places]
        return self.features(items)

    def features(self, items: Tensor) -> Tensor:
        """All as they stand, in one pass."""
        tokens = F.embedding(items, self.tokens)
        h = F.normalize(self.encoder(tokens), dim=1)
        return (h * (tokens[:, :1] != 0)) @ self.projection


def _texts_of(info: DataInfo) -> ItemTexts:
    found = getattr(info, "item_texts", None)
    if found is None:
        raise ValueError(
            "encoder.item_text: the data brings no texts of items: add data.items=FILE data.item_text=COLUMN, or leave "
            "out encoder.item_text, encoder=two_tower"
        )
    return found
