"""Texts whose tokens are the bytes of their words' hashes: enough for what needs strings and some encoder."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repel.data.datamodule import PairData
from repel.data.memory import TensorSamples
from repel.data.samples import Splits
from repel.evaluation.protocol import Network

VOCABULARY, LENGTH = 512, 12
WORDS = {
    "bird": "wing nest feather beak egg song fly flock owl heron",
    "ship": "sail mast deck harbor anchor hull cargo wave crew port",
    "tree": "leaf root bark branch forest trunk seed oak pine shade",
}
COMMON = ["the", "a", "of", "in", "with", "and", "small", "large", "old", "that", "is", "on"]


def token_ids(texts: Sequence[str]) -> Tensor:
    """(N, LENGTH) int32, 0 at the end of shorter texts."""
    x = torch.zeros(len(texts), LENGTH, dtype=torch.int32)
    for row, text in zip(x, texts, strict=True):
        ids = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in text.lower().split()][:LENGTH]
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return x


@dataclass(frozen=True)
class PlainTexts(TensorSamples):
    """x: (N, LENGTH) int32. texts: (N,) strings."""

    texts: np.ndarray | None = None

    @property
    def modality(self) -> Any:
        return None

    def like(self, texts: Sequence[str]) -> "PlainTexts":
        return replace(self, x=token_ids(texts), texts=np.array(texts), labels=None, names=None)


def plain_texts(texts: Sequence[str], labels: Sequence[int] | None = None) -> PlainTexts:
    return PlainTexts(token_ids(texts), None if labels is None else torch.tensor(labels), texts=np.array(texts))


def sentences(n: int, seed: int) -> PlainTexts:
    """Three classes in turn; two words in ten of a text are of its class, now and then one of another."""
    draw, vocabularies = np.random.default_rng(seed), [words.split() for words in WORDS.values()]
    texts = []
    for i in range(n):
        own, other = vocabularies[i % 3], vocabularies[draw.integers(3)]
        texts.append(" ".join(draw.permutation([*draw.choice(COMMON, 6), *draw.choice(own, 2), draw.choice(other)])))
    return plain_texts(texts, [i % 3 for i in range(n)])


def text_data(test: PlainTexts | None = None, labelled: bool = True) -> PairData:
    """90 training, 30 validation and 40 test sentences; a further task: what is alive."""
    parts = [sentences(90, 1), test or sentences(40, 2), sentences(30, 3)]
    parts = parts if labelled else [part.with_labels(None) for part in parts]
    splits, tasks = Splits(*parts, classes=list(WORDS)), {"alive": [1, 0, 1]} if labelled else {}
    made = PairData(lambda: splits, 10, 0.1, 0.1, 0, tasks, None, False, None, lambda x: x, 1)
    made.setup()
    return made


def bag_network() -> Network:
    """A mean of random vectors of words."""
    table = torch.nn.EmbeddingBag(VOCABULARY, 24, padding_idx=0)
    with torch.no_grad():
        table.weight.copy_(torch.randn(VOCABULARY, 24, generator=torch.Generator().manual_seed(0)))

    @torch.no_grad()
    def encode(samples):
        return table.eval()(samples.x), torch.arange(len(samples))

    return Network(encode, table, lambda x: x, torch.device("cpu"))
