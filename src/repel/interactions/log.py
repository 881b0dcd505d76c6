"""A log as it was read: rows of a user and an item, each a number; and what of it is left out before it is split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Log", "compacted", "within_core", "without_repeats"]


@dataclass(frozen=True, eq=False)
class Log:
    """E rows.

    users, items: (E,) int32, numbers of names.
    user_names, item_names: of all numbers; each another name. Some may stand in no row.
    times: (E,) float64, or None.
    parts: (E,) int8, the split that each row was read from, a place in csv_files.SPLITS, or None.
    dates: whether times are seconds since 1970, which people know as dates.
    """

    users: np.ndarray
    items: np.ndarray
    user_names: Sequence[str]
    item_names: Sequence[str]
    times: np.ndarray | None = None
    parts: np.ndarray | None = None
    dates: bool = False

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, which: np.ndarray) -> "Log":
        """Some of the rows, by places or by a mask."""
        times, parts = (None if of_rows is None else of_rows[which] for of_rows in (self.times, self.parts))
        return replace(self, users=self.users[which], items=self.items[which], times=times, parts=parts)


def without_repeats(log: Log) -> Log:
    """Every pair once: where it stands first, in time if there are times; of given splits in the first, train.

    Example:
        >>> log = Log(np.array([0, 0, 0]), np.array([1, 0, 1]), ["u"], ["a", "b"], times=np.array([5.0, 9.0, 2.0]))
        >>> without_repeats(log).times.tolist()
        [9.0, 2.0]
    """
    order = np.arange(len(log)) if log.times is None else np.argsort(log.times, kind="stable")
    keys = log.users[order].astype(np.int64) * len(log.item_names) + log.items[order]
    _, first = np.unique(keys, return_index=True)
    kept = np.sort(order[first])
    return log if len(kept) == len(log) else log.rows(kept)


def within_core(log: Log, fewest: Sequence[int]) -> Log:
    """The most rows in which every user has so many items, and every item so many users; no pair may stand twice.

    Example:
        >>> log = Log(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2]), list("uvw"), list("abc"))
        >>> within_core(log, (2, 2)).users.tolist()
        [0, 0, 1, 1]
    """
    while True:
        kept = np.bincount(log.users, minlength=1)[log.users] >= fewest[0]
        kept &= np.bincount(log.items, minlength=1)[log.items] >= fewest[1]
        if kept.all():
            return log
        log = log.rows(kept)


def compacted(codes: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Numbers from 0 for the names that are in use, in the order of numbers or of the alphabet, and these names.

    Example:
        >>> compacted(np.array([2, 0, 2]), ["b", "c", "a"])
        (array([0, 1, 0], dtype=int32), ['a', 'b'])
    """
    used = np.flatnonzero(np.bincount(codes, minlength=len(names))).tolist()
    used.sort(key=names.__getitem__)
    if all(names[code].isdecimal() for code in used):
        used.sort(key=lambda code: len(names[code]))
    number = np.zeros(len(names), np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    return number[codes], [names[code] for code in used]
