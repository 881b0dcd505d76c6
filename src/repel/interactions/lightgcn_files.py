"""Logs in the format of LightGCN's repository: `train.txt` and `test.txt`, a line a user: `user item item ...`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.csv_files import SPLITS, split_files
from repel.data.samples import Splits
from repel.interactions.csv_columns import CsvFormat
from repel.interactions.item_tables import ItemTable, with_table
from repel.interactions.item_texts import Tokenize
from repel.interactions.log import Log, without_repeats
from repel.interactions.log_splits import as_splits, choose_split, parts_of

__all__ = ["interactions_lightgcn"]

BLOCK = 2**24  # bytes that are taken apart at once
DIGITS = 9  # of a number, at most
NEWLINE, SPACE, ZERO, NINE = b"\n 09"


def interactions_lightgcn(
    root: str,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    split: str = "auto",
    items: str | None = None,
    item_name: str | None = None,
    item_label: str | None = None,
    item_text: str | None = None,
    tokenize: Tokenize | None = None,
) -> Splits:
    """The log as its files split it; without val.txt, a part of the training pairs is held out for validation.

    Args:
        root: a folder with train.txt, test.txt and perhaps val.txt; or one such file.
        val_fraction, test_fraction: of the training pairs, for the splits that have no file.
        split_seed: which.
        split: given; random, of one file; auto: whichever fits.
        items, item_name, item_label, item_text, tokenize: see item_tables.ItemTable.

    Raises:
        ValueError: an option, or what is in the files; one line that names the option.
    """
    files = split_files(root, (".txt",))
    if split in ("last", "time"):
        raise ValueError(f"data.split={split} needs times, and such files have none; data.split=given or random")
    how = choose_split(split, [*files], root)
    table = ItemTable.of(items, None, item_name, item_label, CsvFormat(), item_text, tokenize)
    found = [(*_pairs(file), SPLITS.index(name)) for name, file in sorted(files.items(), key=_place_of_split)]
    users, user_names = _numbered(np.concatenate([users for users, _, _ in found]))
    numbers, item_names = _numbered(np.concatenate([numbers for _, numbers, _ in found]))
    parts = np.concatenate([np.full(len(users), part, np.int8) for users, _, part in found])
    every = Log(users, numbers, user_names, item_names, parts=parts)
    log = without_repeats(every)
    if rank() == 0:
        names = ", ".join(shown(file.name) for file in files.values())
        left_out = f"; left out: {len(every) - len(log):,} that repeat a pair" * (len(log) < len(every))
        print(f"pairs    {names}: read {len(log):,} pairs of {len(user_names):,} users and {len(item_names):,} items"
              + left_out, flush=True)  # fmt: skip
    splits = as_splits(log, parts_of(log, how, val_fraction, test_fraction, split_seed))
    return splits if table is None else with_table(splits, table)


def _place_of_split(item: tuple[str, Path]) -> int:
    return SPLITS.index(item[0])


def _pairs(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(E,) int32 users and items of a file.

    Raises:
        ValueError: it cannot be read, or something in it is no number.
    """
    try:
        content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ValueError(f"data.root: {shown(file)} cannot be read ({error.strerror})") from error
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    line, users, items = 1, [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for block in _blocks(content):
        of_pairs = _taken_apart(block, line, file)
        users.append(of_pairs[0])
        items.append(of_pairs[1])
        line += block.count(b"\n")
    if not sum(map(len, users)):
        raise ValueError(f"data.root: {shown(file.name)} has no pairs; a line is a user and its items, `0 17 4`")
    return np.concatenate(users), np.concatenate(items)


def _blocks(content: bytes) -> Iterator[bytes]:
    """Whole lines."""
    start = 0
    while start < len(content):
        end = content.rfind(b"\n", start, start + BLOCK) + 1 or content.find(b"\n", start) + 1 or len(content)
        yield content[start:end]
        start = end


def _taken_apart(block: bytes, line: int, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of the pairs in some lines, of which the first has this number."""
    letters = np.frombuffer(block, np.uint8)
    inside = letters > SPACE
    starts = np.flatnonzero(inside & np.concatenate([[True], ~inside[:-1]]))
    ends = np.flatnonzero(inside & np.concatenate([~inside[1:], [True]])) + 1
    wrong = inside & ((letters < ZERO) | (letters > NINE))
    place = int(wrong.argmax()) if wrong.any() else None
    if place is None and (long := ends - starts > DIGITS).any():
        place = int(starts[long.argmax()])
    if place is not None:
        line += block.count(b"\n", 0, place)
        word = block[starts[np.searchsorted(starts, place, "right") - 1] :].split(maxsplit=1)[0][:40]
        raise ValueError(
            f"data.root: {shown(file.name)}, line {line:,}: {word.decode('utf-8', 'replace')!r} is no number from 0 to "
            f"{10**DIGITS - 1:,}; data=interactions_csv reads names"
        )
    numbers = np.fromstring(block.decode("ascii"), np.int32, sep=" ")
    of_line = np.searchsorted(np.flatnonzero(letters == NEWLINE), starts)
    is_user = np.diff(of_line, prepend=-1) > 0
    users = numbers[is_user][np.cumsum(is_user) - 1]
    return users[~is_user], numbers[~is_user]


def _numbered(numbers: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(E,) int32, places among the different numbers, and these as names."""
    found, places = np.unique(numbers, return_inverse=True)
    return places.astype(np.int32), list(map(str, found.tolist()))
