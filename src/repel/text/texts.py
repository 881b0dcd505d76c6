"""Texts as tokens."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["TokenBatch"]


class TokenBatch(NamedTuple):
    """Tokens of B texts, padded with 0 at the end, as views take them.

    tokens: (B, L) int32.
    positives: (B, L') of a second text each, which is its positive; or None.
    negatives: (M, B, L'') of further texts, which are its hard negatives; or None.
    mask: the token that stands for a masked one; -1: the tokenizer has none.
    """

    tokens: Tensor
    positives: Tensor | None
    negatives: Tensor | None
    mask: int
