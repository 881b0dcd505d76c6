"""Names that a user may have meant."""

import difflib
from collections.abc import Sequence

__all__ = ["close_names"]

COMPARED = 100_000  # names, about a second; of more, those that begin alike


def close_names(word: str, known: Sequence[str]) -> str:
    """'; did you mean ...?', or nothing where none is close.

    >>> close_names("libC-6", ["libc6", "zlib1g"]), close_names("perl", ["libc6"])
    ('; did you mean libc6?', '')
    """
    lower: dict[str, str] = {}
    for name in known:
        if len(known) <= COMPARED or name[:1].lower() == word[:1].lower():
            lower.setdefault(name.lower(), name)
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[close[0]]}?" if close else ""
