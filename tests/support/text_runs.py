"""Runs on a few of the bundled texts."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models

from repel.text import datasets
from repel.text.texts import TextInfo

GLOSSES = datasets.wordnet_glosses
# a run of a second; Adam divides gradients that are rounding alone by themselves: its steps are small
SMALL = ["experiment=text", "data.vocabulary=200", "data.max_tokens=8", "data.batch_size=32", "head=linear",
         "head.out_features=4", "callbacks.pairs=null", "callbacks.progress=null", "logger.tensorboard=null",
         "trainer.accelerator=cpu", "evaluators=[]", "data.val_fraction=0.1", "optimizer.lr=1.0e-3"]  # fmt: skip
ENCODERS = {
    "bag": ["encoder=bag", "encoder.width=8"],
    "ngrams": ["encoder=bag_of_ngrams", "encoder.width=8", "encoder.buckets=64"],
    "transformer": ["encoder=transformer", "encoder.width=8", "encoder.heads=2", "encoder.dropout=0.2"],
}


def text_info(vocabulary: int = 30) -> TextInfo:
    """Of 50 texts with words w2, w3, ..., whose number of tokens is given."""
    words = ["[UNK]", "[MASK]", *(f"w{number}" for number in range(2, vocabulary - 1))]
    library = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "[UNK]"))
    return TextInfo(50, vocabulary=vocabulary, counts=torch.ones(vocabulary), tokenizer=library.to_str())


def few_glosses() -> tuple:
    """600 training and 80 test texts."""
    train, labels, test, test_labels, classes = GLOSSES()
    return train[::25], labels[::25], test[::25], test_labels[::25], classes


def train_until_killed(folder: str, step: int) -> None:
    """In a process of its own: kill -9 itself after the given number of batches."""
    import runs_here

    datasets.wordnet_glosses = few_glosses
    runs_here.train_until_killed(folder, step)


def fit_few(cfg, folder: Path) -> None:
    """Train a new run, on each of its ranks."""
    from repel.engine.fit import fit

    datasets.wordnet_glosses = few_glosses
    fit(cfg, folder, resume=False)
