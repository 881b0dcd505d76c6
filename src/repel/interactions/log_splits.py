"""Which pairs of a log are for training, validation and testing."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch

from repel.base import seeding
from repel.base.collectives import rank
from repel.data.samples import Splits
from repel.data.splits import uniform
from repel.interactions.log import Log, compacted
from repel.interactions.pairs import EntityStore, Interactions

__all__ = ["as_splits", "choose_split", "parts_by_order", "parts_by_time", "parts_held_out", "parts_of"]

HOW = ("auto", "given", "random", "last", "time")
TRAIN, VAL, TEST = range(3)  # as in csv_files.SPLITS
FEW = 20  # times; with no more of them, the latest one is a split of its own


def choose_split(split: str, files: Sequence[str], root: str) -> str:
    """What data.split=auto means for files of these splits.

    Raises:
        ValueError: it is none of HOW, or does not fit the files.
    """
    if split not in HOW:
        raise ValueError(f"data.split must be one of {', '.join(HOW)}, got {split!r}")
    divided = len(files) > 1
    if split == "given" and not divided:
        raise ValueError(f"data.split=given needs a folder with train and test files, and data.root={root} is one file")
    if split not in ("auto", "given") and divided:
        raise ValueError(
            f"data.split={split} divides one file, and data.root={root} has {', '.join(files)}; data.split=given, or "
            "name one of the files"
        )
    return ("given" if divided else "random") if split == "auto" else split


def parts_of(log: Log, how: str, val_fraction: float, test_fraction: float, seed: int) -> np.ndarray:
    """(E,) int8, TRAIN, VAL or TEST of each pair."""
    if how == "last":
        return parts_by_order(log)
    if how == "time":
        return parts_by_time(log, val_fraction, test_fraction)
    given = log.parts if how == "given" and log.parts is not None else np.full(len(log), TRAIN, np.int8)
    return parts_held_out(log, given, val_fraction, test_fraction, seed)


def parts_held_out(log: Log, given: np.ndarray, val_fraction: float, test_fraction: float, seed: int) -> np.ndarray:
    """(E,) int8: some training pairs become those of a split that is not given.

    Each by a hash of its names and the seed: rows that come or go move no other. Of each user at least one pair stays.
    """
    parts, train = given.copy(), np.flatnonzero(given == TRAIN)
    draws, users = _draws(log, seed)[train], log.users[train]
    greatest = np.zeros(len(log.user_names))
    np.maximum.at(greatest, users, draws)
    to_test, to_val = (
        0 if (given == part).any() else share for part, share in ((TEST, test_fraction), (VAL, val_fraction))
    )
    movable = draws < greatest[users]
    parts[train[movable & (draws < to_test + to_val)]] = VAL
    parts[train[movable & (draws < to_test)]] = TEST
    return parts


def parts_by_order(log: Log) -> np.ndarray:
    """Each user's last pair in time is for testing, the one before for validation. Who has one pair trains on it; who
    has two trains on the first and is tested on the second. Of equal times, the later row is the later pair.
    """
    assert log.times is not None
    order = np.lexsort((log.times, log.users))
    users = log.users[order]
    count = np.bincount(users)
    from_end = np.cumsum(count)[users] - 1 - np.arange(len(users))
    parts = np.full(len(log), TRAIN, np.int8)
    parts[order[(from_end == 0) & (count[users] > 1)]] = TEST
    parts[order[(from_end == 1) & (count[users] > 2)]] = VAL
    return parts


def parts_by_time(log: Log, val_fraction: float, test_fraction: float) -> np.ndarray:
    """The latest share of all pairs is for testing, the share before it for validation; equal times stay together.

    Where there are at most FEW times, the latest is for testing, the one before for validation. A line says from when.

    Raises:
        ValueError: there are fewer than three times.
    """
    assert log.times is not None
    times = np.sort(log.times)
    distinct = times[np.diff(times, prepend=-np.inf) > 0]
    if len(distinct) < 3:
        raise ValueError(
            f"data.split=time needs three different times in data.time, found {len(distinct)}; data.split=random"
        )
    if len(distinct) <= FEW:
        from_test, from_val = distinct[-1], distinct[-2]
    else:
        from_test = times[-max(1, round(test_fraction * len(times)))]
        earlier = times[: np.searchsorted(times, from_test)]
        from_val = earlier[-min(len(earlier), max(1, round(val_fraction * len(times))))]
    if rank() == 0:
        since = [_date(time) if log.dates else f"{time:.15g}" for time in (from_val, from_test)]
        print(f"note     validation is from {since[0]} on, test from {since[1]} on, of {len(distinct):,} times")
    parts = np.full(len(log), TRAIN, np.int8)
    parts[log.times >= from_val] = VAL
    parts[log.times >= from_test] = TEST
    return parts


def as_splits(log: Log, parts: np.ndarray) -> Splits:
    """The log, every pair once, divided; lines say what is left out, or never seen in training.

    Args:
        parts: (E,), TRAIN, VAL or TEST of each.

    Raises:
        ValueError: a split is empty, or all pairs are of one user or one item.
    """
    trained = np.bincount(log.users[parts == TRAIN], minlength=len(log.user_names)) > 0
    known = trained[log.users]
    if lost := int((~known).sum()):
        if rank() == 0:
            unknown = np.count_nonzero(np.bincount(log.users[~known]))
            print(f"note     left out: users without a training pair ({unknown:,}), with their pairs ({lost:,})")
        log, parts = log.rows(known), parts[known]
    for side, column in (("user", log.users), ("item", log.items)):
        if len(log) and (column == column[0]).all():
            raise ValueError(f"data.{side}: all {len(log):,} pairs are of one {side}; there is nothing to rank by")
    for number, name in enumerate(("train", "val", "test")):
        if not (parts == number).any():
            raise ValueError(
                f"data.split: no pair is left for {name}, of {len(log):,}; a larger log, or another data.split, "
                "data.split_seed, data.val_fraction or data.test_fraction gives it some"
            )
    users, user_names = compacted(log.users, log.user_names)
    items, item_names = compacted(log.items, log.item_names)
    store = EntityStore(len(user_names), len(item_names), user_names, item_names)
    in_training = np.bincount(items[parts == TRAIN], minlength=len(item_names)) > 0
    if rank() == 0 and (new := int((~in_training).sum())):
        print(f"note     items without a training pair: {new:,} of {len(item_names):,}; they stay in the ranking")
    # whatever the order of the rows, the same pairs are the same data
    order: np.ndarray = np.argsort(users.astype(np.int64) * len(item_names) + items)
    pairs = np.stack([users[order], items[order]], 1)
    train, val, test = (
        Interactions(torch.from_numpy(pairs[parts[order] == number]), store=store) for number in (TRAIN, VAL, TEST)
    )
    return Splits(train, test, val)


def _draws(log: Log, seed: int) -> np.ndarray:
    """(E,) float64 in [0, 1), of the names of each pair."""
    store = EntityStore(len(log.user_names), len(log.item_names), log.user_names, log.item_names)
    keys = store.pair_keys(log.users, log.items)
    return uniform(keys, seeding.mix(seed, seeding.SPLIT))


def _date(seconds: float) -> str:
    return str(datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None))
