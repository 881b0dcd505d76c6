"""Texts, as strings and as tokens, which are held in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from repel.data.identity import name_keys
from repel.data.memory import TensorSamples
from repel.data.samples import DataInfo, Fetched
from repel.data.views import ViewDraws

if TYPE_CHECKING:
    from repel.text.modality import TextModality
    from repel.text.tokenizer import Tokenizer

__all__ = ["RawTexts", "TextInfo", "TextStore", "Texts", "TokenBatch", "ids_at", "text_ids"]

BLOCK = 2**16  # texts whose tokens are counted at a time


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


@dataclass(frozen=True)
class TextInfo(DataInfo):
    """What an encoder may have to know of the training texts.

    vocabulary: tokens, the padding included: ids are 0 .. vocabulary - 1.
    counts: (vocabulary,) float32, in how many training texts each token occurs.
    mask: the token that stands for a masked one; -1: the tokenizer has none.
    tokenizer: in the JSON of the package `tokenizers`; its own ids are ours less 1.
    max_tokens: of a text, at most; 0: not known.
    """

    vocabulary: int = 0
    counts: Tensor | None = None
    mask: int = -1
    tokenizer: str = ""
    max_tokens: int = 0


@dataclass(frozen=True, eq=False)
class TextStore:
    """The strings of a set: what its splits point into. Any sequences do, such as lines of a file that stays on disk.

    texts: N strings.
    positives: N strings, a positive of each text; or None.
    negatives: M times N strings, the hard negatives of each text.
    """

    texts: Sequence[str]
    positives: Sequence[str] | None = None
    negatives: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class RawTexts(TensorSamples):
    """Texts as a reader gives them: x (N,) int64 are their places in the store.

    >>> texts = RawTexts.of(["a bird", "a plane"], labels=[0, 1])
    >>> texts[torch.tensor([1])].texts
    ['a plane']
    """

    store: TextStore = TextStore(())

    @classmethod
    def of(cls, texts: Sequence[str], labels: Sequence[int] | np.ndarray | None = None, **more: Any) -> Self:
        """All texts of a sequence. more: positives and negatives, see TextStore."""
        known = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        return cls(torch.arange(len(texts)), known, store=TextStore(texts, **more))

    @property
    def modality(self) -> "TextModality":
        from repel.text.modality import TEXTS

        return TEXTS

    @property
    def texts(self) -> list[str]:
        return [self.store.texts[place] for place in self.x.tolist()]

    @property
    def description(self) -> str:
        return "texts"

    def keys(self) -> Tensor:
        """A text is known by its words: equal texts are never divided among splits."""
        return ids_at(self.store.texts, self.x)


@dataclass(frozen=True)
class Texts(TensorSamples):
    """Texts as tokens: x (N, L) int32, padded with 0 at the end.

    Args:
        lengths: (N,) tokens of each, or of its positive, if that is longer.
        ids: (N,) int64, equal for equal texts, see text_ids.
        places: (N,) of the strings in the store.
        positives, positive_ids: (N, L') and (N,), of a second text that is each one's positive; or None.
        negatives, negative_ids: (N, M, L'') and (N, M), of its hard negatives; or None.
        negative_lengths: (N,) tokens of the longest of them.
        store: the strings.
        tokenizer: which made the tokens.
    """

    lengths: np.ndarray | None = None
    ids: Tensor | None = None
    places: np.ndarray | None = None
    positives: Tensor | None = None
    positive_ids: Tensor | None = None
    negatives: Tensor | None = None
    negative_ids: Tensor | None = None
    negative_lengths: np.ndarray | None = None
    store: TextStore = TextStore(())
    tokenizer: "Tokenizer | None" = None

    @property
    def modality(self) -> "TextModality":
        from repel.text.modality import TEXTS

        return TEXTS

    @property
    def texts(self) -> list[str]:
        """The strings, in order."""
        assert self.places is not None
        return [self.store.texts[place] for place in self.places.tolist()]

    def text(self, place: int) -> str:
        """One string, of the sample at this place."""
        assert self.places is not None
        return self.store.texts[int(self.places[place])]

    def like(self, texts: Sequence[str]) -> "Texts":
        """Other strings as tokens of the same tokenizer."""
        assert self.tokenizer is not None
        return self.tokenizer(RawTexts.of(texts))

    @property
    def description(self) -> str:
        return f"texts of at most {self.x.shape[1]} tokens"

    def keys(self) -> Tensor | None:
        return self.ids

    def fetch(self, places: Tensor, draws: ViewDraws) -> Fetched:
        """A batch, cut to its longest text; its views show the texts, or, with views.pair, texts and positives."""
        assert self.ids is not None
        assert self.tokenizer is not None
        here, longest = places.to(self.x.device, non_blocking=True), _longest(self.lengths, places)
        tokens, ids = self.x[here, :longest], self.ids[here]
        positives = negatives = negative_ids = None
        if self.positives is not None and self.positive_ids is not None and getattr(draws.views, "pair", False):
            others = [self.positive_ids[here]] * (draws.views.n - 1)
            positives, ids = self.positives[here, :longest], torch.stack([ids, *others])
        if self.negatives is not None and self.negative_ids is not None:
            longest = _longest(self.negative_lengths, places)
            negatives, negative_ids = self.negatives[here, :, :longest].transpose(0, 1), self.negative_ids[here].T
        batch = TokenBatch(tokens, positives, negatives, self.tokenizer.mask)
        return Fetched(places, batch, ids=ids, negative_ids=negative_ids)

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Any, Tensor]]:
        for some in places:
            yield self.x[some, : _longest(self.lengths, some)], torch.ones(len(some), dtype=torch.bool)

    def info(self) -> TextInfo:
        assert self.tokenizer is not None
        counts = torch.zeros(self.tokenizer.size)
        for block in self.x.cpu().split(BLOCK):
            ordered = block.long().sort(1).values
            ordered[:, 1:].masked_fill_(ordered[:, 1:] == ordered[:, :-1], 0)  # a token counts once a text
            counts += torch.bincount(ordered.flatten(), minlength=len(counts))
        counts[0] = 0
        negatives = 0 if self.negatives is None else self.negatives.shape[1]
        cut = self.tokenizer
        return TextInfo(
            len(self),
            negatives,
            vocabulary=cut.size,
            counts=counts,
            mask=cut.mask,
            tokenizer=cut.json,
            max_tokens=cut.max_tokens,
        )

    def without_pairs(self) -> "Texts":
        """The texts alone."""
        return replace(self, positives=None, positive_ids=None, negatives=None, negative_ids=None)


def _longest(lengths: np.ndarray | None, places: Tensor) -> int:
    assert lengths is not None
    return max(1, int(lengths[places.numpy()].max(initial=0)))


def text_ids(texts: Sequence[str]) -> Tensor:
    """(N,) int64, 0 or more: 63 bits of a hash of each text, so that equal texts are one entity wherever they stand.

    >>> a, b, c = text_ids(["one", "two", "one"]).tolist()
    >>> a == c, a == b
    (True, False)
    """
    return name_keys(texts) & torch.iinfo(torch.int64).max


def ids_at(texts: Sequence[str], places: Tensor) -> Tensor:
    """text_ids of the texts at these places; those that the sequence knows, as its `ids`, are taken from there."""
    known = getattr(texts, "ids", None)
    return text_ids([texts[place] for place in places.tolist()]) if known is None else torch.from_numpy(known)[places]
