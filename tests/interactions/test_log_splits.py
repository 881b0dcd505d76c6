"""How logs are divided and thinned out: against plain forms, and what must not move."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from repel.interactions.log import Log, compacted, within_core, without_repeats
from repel.interactions.log_splits import as_splits, parts_by_order, parts_by_time, parts_held_out, parts_of

TRAIN, VAL, TEST = range(3)


def a_log(rows: int, seed: int = 0, users: int = 12, items: int = 30, times: int = 10**6) -> Log:
    draws = np.random.default_rng(seed)
    log = Log(
        draws.integers(users, size=rows).astype(np.int32),
        draws.integers(items, size=rows).astype(np.int32),
        [f"user {number}" for number in range(users)],
        [f"item {number}" for number in range(items)],
        draws.integers(times, size=rows).astype(float),
    )
    return without_repeats(log)


def of_users(log: Log) -> dict[int, list[int]]:
    """User -> places of the user's rows, by time."""
    found = defaultdict(list)
    for place in sorted(range(len(log)), key=lambda place: log.times[place]):
        found[log.users[place]].append(place)
    return found


def by_name(log: Log, parts: np.ndarray) -> dict[tuple[str, str], int]:
    return {
        (log.user_names[user], log.item_names[item]): int(part)
        for user, item, part in zip(log.users, log.items, parts, strict=True)
    }


def test_last_pairs_of_each_user():
    log = a_log(60)
    expected = np.full(len(log), TRAIN)
    for places in of_users(log).values():
        if len(places) > 1:
            expected[places[-1]] = TEST
        if len(places) > 2:
            expected[places[-2]] = VAL
    assert {*map(len, of_users(log).values())} & {1, 2}, "there should be users with few pairs"
    assert parts_by_order(log).tolist() == expected.tolist()


def test_of_equal_times_the_later_row_is_the_last():
    log = Log(np.zeros(4, np.int32), np.arange(4, dtype=np.int32), ["u"], list("abcd"), np.array([5.0, 5, 5, 1]))
    assert parts_by_order(log).tolist() == [TRAIN, VAL, TEST, TRAIN]


def test_latest_share_of_all_pairs():
    log = a_log(300)
    parts, order = parts_by_time(log, 0.2, 0.1), np.argsort(log.times)
    n = len(log)
    test, val = round(0.1 * n), round(0.2 * n)
    assert len(np.unique(log.times)) == n, "no ties here"
    assert parts[order].tolist() == [TRAIN] * (n - val - test) + [VAL] * val + [TEST] * test


def test_equal_times_stay_together():
    log = a_log(400, users=40, items=40, times=25)
    parts = parts_by_time(log, 0.1, 0.1)
    of_time = defaultdict(set)
    for time, part in zip(log.times, parts, strict=True):
        of_time[time].add(part)
    assert len(of_time) == 25
    assert all(len(found) == 1 for found in of_time.values())
    ordered = [found.pop() for _, found in sorted(of_time.items())]
    assert ordered == sorted(ordered)
    assert [(parts == part).mean() > 0.09 for part in (VAL, TEST)] == [True, True]


def test_few_times_the_latest_is_test(capsys):
    log = a_log(200, times=6)
    parts = parts_by_time(log, 0.1, 0.1)
    assert np.array_equal(parts, np.where(log.times == 5, TEST, np.where(log.times == 4, VAL, TRAIN)))
    assert capsys.readouterr().out == "note     validation is from 4 on, test from 5 on, of 6 times\n"
    with pytest.raises(ValueError, match=r"needs three different times in data\.time, found 2"):
        parts_by_time(a_log(200, times=2), 0.1, 0.1)


def test_random_parts_stay_where_they_are_when_rows_come_and_go():
    log = a_log(2000, users=100, items=200)
    parts = parts_of(log, "random", 0.1, 0.2, 7)
    assert np.abs(np.bincount(parts) / len(log) - [0.7, 0.1, 0.2]).max() < 0.03
    draws = np.random.default_rng(1)
    some = draws.permutation(len(log))[: len(log) // 2]  # fewer rows, in another order
    few = log.rows(some)
    users, user_names = compacted(few.users, few.user_names)  # and by other numbers
    few = Log(users, few.items, user_names, few.item_names)
    here, there = by_name(few, parts_of(few, "random", 0.1, 0.2, 7)), by_name(log, parts)
    moved = [pair for pair in here if here[pair] != there[pair]]
    alone = Counter(user for user, _ in here)
    assert len(moved) <= 2
    assert all(here[pair] == TRAIN and alone[pair[0]] < 8 for pair in moved)  # somebody's only one for training
    other = parts_of(log, "random", 0.1, 0.2, 8)
    assert 0.3 < (other != parts).mean() < 0.6


def test_every_user_keeps_a_training_pair():
    log = a_log(300, users=200, items=200)
    assert np.bincount(log.users).min() <= 1
    parts = parts_of(log, "random", 0.45, 0.45, 0)
    assert {*log.users[parts == TRAIN].tolist()} == {*log.users.tolist()}


def test_only_missing_splits_are_held_out():
    log = a_log(900, users=30, items=60)
    given = np.where(log.items < 10, TEST, TRAIN).astype(np.int8)
    parts = parts_held_out(log, given, 0.2, 0.3, 0)
    assert np.array_equal(parts == TEST, given == TEST)
    assert 0.12 < (parts[given == TRAIN] == VAL).mean() < 0.28
    whole = np.where(log.items < 10, VAL, given).astype(np.int8)
    whole[log.items > 50] = TEST
    assert np.array_equal(parts_held_out(log, whole, 0.2, 0.3, 0), whole)


@pytest.mark.parametrize("fewest", [(5, 4), (3, 6), (6, 3)])
def test_core_is_the_fixed_point(fewest):
    log = a_log(150, users=20, items=20)
    kept = {(int(user), int(item)) for user, item in zip(log.users, log.items, strict=True)}
    while True:
        counts = [Counter(pair[side] for pair in kept) for side in (0, 1)]
        gone = {(u, i) for u, i in kept if counts[0][u] < fewest[0] or counts[1][i] < fewest[1]}
        if not gone:
            break
        kept.remove(min(gone))  # one at a time: the order does not matter
    core = within_core(log, fewest)
    assert {*zip(core.users.tolist(), core.items.tolist(), strict=True)} == kept
    assert 0 < len(kept) < len(log)


def test_repeated_pairs_count_when_they_were_first():
    log = Log(
        np.array([0, 1, 0, 0, 1], np.int32), np.array([1, 0, 1, 1, 0], np.int32), ["u", "v"], ["a", "b"],
        np.array([7.0, 3, 5, 9, 3]),
    )  # fmt: skip
    kept = without_repeats(log)
    assert list(zip(kept.users.tolist(), kept.items.tolist(), kept.times.tolist(), strict=True)) == [
        (1, 0, 3),
        (0, 1, 5),
    ]


def test_numbers_are_in_order_of_names():
    assert compacted(np.array([0, 1, 2, 1]), ["10", "9", "100"])[1] == ["9", "10", "100"]
    assert compacted(np.array([0, 1, 2, 1]), ["10", "9", "a"])[1] == ["10", "9", "a"]


def test_keys_of_pairs_are_of_their_names():
    """A run knows its pairs again in a log that has grown."""
    log = a_log(400)
    splits = as_splits(log, parts_of(log, "random", 0.2, 0.2, 0))
    keys = splits.test.keys()
    assert len(keys.unique()) == len(keys) == len(splits.test)
    some = log.rows(np.flatnonzero((log.users > 2) & (log.items > 5)))
    fewer = as_splits(some, parts_of(some, "random", 0.2, 0.2, 0))
    assert fewer.train.store.users < splits.train.store.users
    before, now = (torch.cat([s.train.keys(), s.val.keys(), s.test.keys()]).tolist() for s in (splits, fewer))
    assert {*now} < {*before}
