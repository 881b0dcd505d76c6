"""Texts with typing errors, and with words left out."""

import re
from collections.abc import Callable, Iterator, Sequence

import torch

__all__ = ["CORRUPTIONS", "SHARES", "corrupt_texts"]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the words, by strength 1 to 5
_WORD = re.compile(r"\S+")
_ROWS = ("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75)  # of a US keyboard, and where each begins
_KEYS = {letter: (x + left, y) for y, (row, left) in enumerate(_ROWS) for x, letter in enumerate(row)}
_NEIGHBORS = {
    letter: "".join(o for o, (p, q) in _KEYS.items() if o != letter and (p - x) ** 2 + (q - y) ** 2 < 1.6)
    for letter, (x, y) in _KEYS.items()
}


def _pick(options: Sequence, draw: float):
    return options[int(draw * len(options))]


def _neighbor(letter: str, draw: float) -> str:
    """A letter beside this one on the keyboard, of the same case; itself where it is on none."""
    key = letter.lower()
    found = _pick(_NEIGHBORS[key], draw) if key in _NEIGHBORS else letter
    return found.upper() if letter.isupper() else found


def _swap(word: str, place: float, choice: float) -> str:
    places = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return word
    i = _pick(places, place)
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def _delete(word: str, place: float, choice: float) -> str:
    i = int(place * len(word))
    return word if len(word) < 2 else word[:i] + word[i + 1 :]


def _insert(word: str, place: float, choice: float) -> str:
    i = int(place * len(word))
    return word[: i + 1] + _neighbor(word[i], choice) + word[i + 1 :]


def _keyboard(word: str, place: float, choice: float) -> str:
    places = [i for i, letter in enumerate(word) if letter.lower() in _NEIGHBORS]
    if not places:
        return word
    i = _pick(places, place)
    return word[:i] + _neighbor(word[i], choice) + word[i + 1 :]


_TYPOS: dict[str, Callable[[str, float, float], str]] = {
    "swap": _swap,
    "delete": _delete,
    "insert": _insert,
    "keyboard": _keyboard,
}
CORRUPTIONS = (*_TYPOS, "drop")


def corrupt_texts(texts: Sequence[str], name: str, strength: int, generator: torch.Generator) -> list[str]:
    """Texts (N,) with errors in a share of their words, drawn word by word: 10 % at strength 1, 50 % at 5.

    One error a word: `swap` of two neighboring letters, or `keyboard`, a letter beside the right one in its place (both
    of Belinkov, Bisk 2018, arXiv:1711.02173), `delete` of a letter, or `insert` of one beside it after it. A word that
    an error cannot change, such as one letter alone by `swap`, stays as it is. `drop` leaves words out; every text
    keeps one. Words are what stands between spaces.

    Args:
        name: of CORRUPTIONS.
        strength: 1 to 5.
        generator: the texts' draws depend on its state and on the texts before them.

    >>> corrupt_texts(["a small bird that sings at night"], "swap", 5, torch.Generator().manual_seed(0))
    ['a msall bidr that isngs at ngiht']
    """
    share, words = SHARES[strength - 1], [len(_WORD.findall(text)) for text in texts]
    draws = iter(torch.rand(sum(words), 3, generator=generator).tolist())
    change = _without_words if name == "drop" else _with_typos(_TYPOS[name])
    return [change(text, [next(draws) for _ in range(n)], share) for text, n in zip(texts, words, strict=True)]


def _with_typos(edit: Callable[[str, float, float], str]) -> Callable[[str, list[list[float]], float], str]:
    def change(text: str, draws: list[list[float]], share: float) -> str:
        each: Iterator[list[float]] = iter(draws)

        def typed(match: re.Match[str]) -> str:
            touched, place, choice = next(each)
            return edit(match.group(), place, choice) if touched < share else match.group()

        return _WORD.sub(typed, text)

    return change


def _without_words(text: str, draws: list[list[float]], share: float) -> str:
    words, touched = _WORD.findall(text), [draw[0] for draw in draws]
    last = max(touched, default=0.0)  # who is least touched stays
    return " ".join(word for word, draw in zip(words, touched, strict=True) if draw >= share or draw == last)
