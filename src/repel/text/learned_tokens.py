"""Tokens of texts that are no samples of their own, such as texts of items: they are learned from these alone."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from repel.base.collectives import rank
from repel.data.identity import name_keys
from repel.text.texts import RawTexts, TextInfo

__all__ = ["learned_tokens"]


def learned_tokens(
    texts: Sequence[str],
    kind: str = "wordpiece",
    vocabulary: int = 8192,
    max_tokens: int = 32,
    file: str | None = None,
    limit: int = 200_000,
) -> tuple[Tensor, TextInfo, Tensor]:
    """Token ids, what a text encoder must know of them, and which vocabulary it is: of the same texts the same always.

    Args:
        texts: N strings; an empty one is no text.
        kind, vocabulary, max_tokens, file: see tokenizer.Tokenizer.
        limit: its `texts`.

    Returns:
        (N, L) int32, padded with 0 at the end, L tokens of the longest text; TextInfo for on_data; and (1,) int64, 64
        bits of a hash of the vocabulary.

    Raises:
        ValueError: an option is out of its range.

    Example:
        >>> tokens, info, _ = learned_tokens(["a bird", "", "a big bird"], kind="word")
        >>> tokens.tolist(), info.vocabulary, info.train_size
        ([[3, 4, 0], [0, 0, 0], [3, 5, 4]], 6, 2)
    """
    from repel.text.tokenizer import Tokenizer  # not before it is needed: it takes its time

    tokenizer = Tokenizer(kind, vocabulary, max_tokens, file, limit)
    every = RawTexts.of(texts)
    known = every[every.x.new_tensor([place for place, text in enumerate(texts) if text.strip()])]
    tokenizer.fit(known)
    found = tokenizer(every)
    for note in tokenizer.notes() if rank() == 0 else ():
        print(f"note     {note}", flush=True)
    assert found.lengths is not None
    longest = max(1, int(found.lengths.max(initial=0)))
    ids = sorted(tokenizer.library.get_vocab().items())
    return found.x[:, :longest].clone(), replace(found.info(), train_size=len(known)), name_keys([str(ids)])
