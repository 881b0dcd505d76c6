"""Robustness of texts' features to typing errors and missing words."""

from typing import cast

import torch

from repel.data.samples import Samples
from repel.evaluation.corrupted import Corrupt, CorruptedKNN
from repel.text.texts import Texts
from repel.text.typos import CORRUPTIONS, corrupt_texts

__all__ = ["TextCorruptions"]


class TextCorruptions(CorruptedKNN):
    """kNN accuracy on corrupted test texts, five strengths each; the bank stays clean. See typos.corrupt_texts.

    Args:
        k, temperature: of the vote.
        texts: at most so many test texts, evenly spaced.
        seed: of which words, and what becomes of them.
    """

    corruptions = CORRUPTIONS
    noun = "texts"

    def __init__(self, k: int, temperature: float, texts: int, seed: int):
        if texts < 1 or k < 1 or not temperature > 0:
            raise ValueError(
                "evaluators.text_corruptions needs texts >= 1, k >= 1 and temperature > 0, "
                f"got {texts}, {k} and {temperature}"
            )
        super().__init__(k, temperature, texts, seed)

    def versions(self, samples: Samples) -> tuple[Samples, Corrupt]:
        texts = cast(Texts, samples)
        strings = texts.texts

        def corrupt(name: str, strength: int, generator: torch.Generator) -> Samples:
            return texts.like(corrupt_texts(strings, name, strength, generator)).with_labels(samples.labels)

        return samples, corrupt
