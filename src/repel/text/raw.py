"""What baselines, pairs and corruptions ask of a set of texts: its strings, and others of its kind."""

from collections.abc import Sequence
from typing import Protocol, Self, cast

from repel.data.samples import Samples

__all__ = ["RawTexts", "raw_texts"]


class RawTexts(Samples, Protocol):
    """A set of texts whose strings are at hand.

    texts: (N,) strings.
    """

    @property
    def texts(self) -> Sequence[str]: ...

    def like(self, texts: Sequence[str]) -> Self:
        """Other texts (M,), tokenized as these are, without labels and names."""
        ...


def raw_texts(samples: Samples) -> RawTexts:
    """The samples of a text run, for type checkers."""
    return cast(RawTexts, samples)
