"""Sentences of three subjects, as tokens, with some encoder."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from repel.data.datamodule import PairData
from repel.data.samples import Splits
from repel.evaluation.protocol import Network
from repel.text.texts import RawTexts, Texts
from repel.text.tokenizer import Tokenizer

WORDS = {
    "bird": "wing nest feather beak egg song fly flock owl heron",
    "ship": "sail mast deck harbor anchor hull cargo wave crew port",
    "tree": "leaf root bark branch forest trunk seed oak pine shade",
}
COMMON = ["the", "a", "of", "in", "with", "and", "small", "large", "old", "that", "is", "on"]


@cache
def tokenizer() -> Tokenizer:
    found = Tokenizer(kind="word", vocabulary=100, max_tokens=12)
    found.fit(RawTexts.of([" ".join(COMMON), *WORDS.values()]))
    return found


def plain_texts(texts: Sequence[str], labels: Sequence[int] | None = None) -> Texts:
    return tokenizer()(RawTexts.of(list(texts), labels))


def sentences(n: int, seed: int) -> Texts:
    """Three classes in turn; two words in ten of a text are of its class, now and then one of another."""
    draw, vocabularies = np.random.default_rng(seed), [words.split() for words in WORDS.values()]
    texts = []
    for i in range(n):
        own, other = vocabularies[i % 3], vocabularies[draw.integers(3)]
        texts.append(" ".join(draw.permutation([*draw.choice(COMMON, 6), *draw.choice(own, 2), draw.choice(other)])))
    return plain_texts(texts, [i % 3 for i in range(n)])


def text_data(test: Texts | None = None, labelled: bool = True) -> PairData:
    """90 training, 30 validation and 40 test sentences; a further task: what is alive."""
    parts = [sentences(90, 1), test or sentences(40, 2), sentences(30, 3)]
    parts = parts if labelled else [part.with_labels(None) for part in parts]
    splits, tasks = Splits(*parts, classes=list(WORDS)), {"alive": [1, 0, 1]} if labelled else {}
    made = PairData(lambda: splits, 10, 0.1, 0.1, 0, tasks, None, False, None, lambda x: x, 1)
    made.setup()
    return made


def bag_network() -> Network:
    """A mean of random vectors of words, short ones for words of any subject."""
    table = torch.nn.EmbeddingBag(100, 24, padding_idx=0)
    with torch.no_grad():
        table.weight.copy_(torch.randn(100, 24, generator=torch.Generator().manual_seed(0)))
        table.weight[plain_texts(COMMON).x[:, 0].long()] *= 0.2

    @torch.no_grad()
    def encode(samples):
        return table.eval()(samples.x), torch.arange(len(samples))

    return Network(encode, table, lambda x: x, torch.device("cpu"))
