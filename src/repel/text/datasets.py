"""Readers of known text datasets."""

import bz2
from importlib import resources

import numpy as np

from repel.data.samples import Splits
from repel.text.texts import RawTexts

__all__ = ["wordnet_glosses", "wordnet_mini"]


def wordnet_glosses() -> tuple[list[str], np.ndarray, list[str], np.ndarray, list[str]]:
    """The bundled glosses of WordNet 3.0 (Miller 1995, doi 10.1145/219717.219748): what kind of thing is defined?

    Each text is the definition of a noun, 4 to 32 words of English; its class is the file of WordNet's lexicographers
    that the noun is in, one of ten, balanced. No text occurs twice.

    Returns:
        15,000 training texts, their labels (15000,) int64, 2,000 test texts, their labels (2000,) int64, and the
        names of the classes in the order of the labels.

    >>> texts, labels, test_texts, test_labels, classes = wordnet_glosses()
    >>> texts[0], classes[labels[0]]
    ('a position on a basketball, soccer, or hockey team', 'act')
    >>> len(texts), len(test_texts), classes[-1]
    (15000, 2000, 'substance')
    """
    file = resources.files("repel.text").joinpath("wordnet_mini/glosses.tsv.bz2")
    rows = [line.split("\t") for line in bz2.decompress(file.read_bytes()).decode("utf-8").splitlines()]
    classes = sorted({name for _, name, _ in rows})
    texts = {split: [text for part, _, text in rows if part == split] for split in ("train", "test")}
    labels = {
        split: np.array([classes.index(name) for part, name, _ in rows if part == split], dtype=np.int64)
        for split in ("train", "test")
    }
    return texts["train"], labels["train"], texts["test"], labels["test"], classes


def wordnet_mini() -> Splits:
    """The bundled glosses as splits: 15,000 train and 2,000 test texts."""
    texts, labels, test_texts, test_labels, classes = wordnet_glosses()
    return Splits(RawTexts.of(texts, labels), RawTexts.of(test_texts, test_labels), classes=classes)
