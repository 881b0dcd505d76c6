"""Anyone's own log in CSV files: a row an interaction; columns of users, items, and perhaps times and ratings."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.csv_files import SPLITS, check_roles, split_files
from repel.data.samples import Splits
from repel.data.text_files import check_encoding
from repel.interactions.csv_columns import CsvFormat, CsvTable, TimeColumn, floats
from repel.interactions.item_tables import ItemTable, with_table
from repel.interactions.item_texts import Tokenize
from repel.interactions.log import Log, within_core, without_repeats
from repel.interactions.log_splits import as_splits, choose_split, parts_of

__all__ = ["interactions_csv"]

ENDINGS = (".csv", ".tsv", ".txt", ".inter", ".data", ".dat")


def interactions_csv(
    root: str,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    split: str = "auto",
    core: Sequence[int] | None = None,
    items: str | None = None,
    item_name: str | None = None,
    item_label: str | None = None,
    encoding: str | None = None,
    quotes: bool = True,
    header: bool = True,
    item_text: str | None = None,
    tokenize: Tokenize | None = None,
) -> Splits:
    """Read a file with a row an interaction, or a folder with train.csv, test.csv and perhaps val.csv.

    Args:
        root: the file or folder.
        val_fraction, test_fraction, split_seed: shares of all pairs, where the split has shares, and of random: which.
        user, item: columns of names; None: the only one that is named user, user_id or the like.
        time: the column of numbers or ISO dates, for split=last and time.
        rating, min_rating: the column of ratings, and the least one of a row that counts; None: all count.
        split: given, random, last or time, see log_splits.py; auto: given of a folder with splits, else random.
        core: [a, b]: only users with at least a items and items with at least b users, to the fixed point; None: all.
        items, item_name, item_label, item_text, tokenize: see item_tables.ItemTable.
        encoding, quotes, header: see csv_columns.CsvFormat.

    Raises:
        ValueError: an option, or what is in the files; one line that names the option.
    """
    check_encoding(encoding)
    files, form = split_files(root, ENDINGS), CsvFormat(encoding, quotes, header)
    typed = {"user": user, "item": item, "time": time, "rating": rating}
    columns = {role: None if name is None else str(name) for role, name in typed.items()}
    how = choose_split(split, [*files], root)
    _check_options(columns, min_rating, how, core)
    columns["time"] = columns["time"] if how in ("last", "time") else None
    columns["rating"] = None if min_rating is None else columns["rating"]
    table = ItemTable.of(items, columns["item"], item_name, item_label, form, item_text, tokenize)
    log, words = _read(files, columns, form, min_rating, core)
    _say_what_was_read(files.values(), words)
    splits = as_splits(log, parts_of(log, how, val_fraction, test_fraction, split_seed))
    return splits if table is None else with_table(splits, table)


def _say_what_was_read(files: Iterable[Path], words: str) -> None:
    if rank() == 0:
        print(f"pairs    {', '.join(shown(file.name) for file in files)}: {words}", flush=True)


def _check_options(
    columns: Mapping[str, str | None], min_rating: float | None, how: str, core: Sequence[int] | None
) -> None:
    """Raises ValueError where options do not fit each other; a line names those without an effect."""
    check_roles({role: [] if name is None else [name] for role, name in columns.items()})
    if min_rating is not None and not isinstance(min_rating, int | float):
        raise ValueError(f"data.min_rating must be a number, got {min_rating!r}")
    if min_rating is not None and columns["rating"] is None:
        raise ValueError(f"data.min_rating={min_rating} needs data.rating=COLUMN, the column of ratings")
    if how in ("last", "time") and columns["time"] is None:
        raise ValueError(f"data.split={how} needs data.time=COLUMN, the column of times; or data.split=random")
    if core is not None and how == "given":
        raise ValueError("data.core would change the splits that the files give; data.core=null, or one file")
    two = isinstance(core, Sequence) and not isinstance(core, str) and len(core) == 2
    if core is not None and not (two and all(isinstance(few, int) and few >= 1 for few in core)):
        raise ValueError(
            f"data.core must be [a,b], at least a items a user and b users an item, each at least 1, got {core}"
        )
    if rank() == 0 and columns["time"] is not None and how not in ("last", "time"):
        print(f"note     data.time={columns['time']} is not read: data.split={how} takes no times; last and time do")
    if rank() == 0 and columns["rating"] is not None and min_rating is None:
        print(
            "note     data.rating is not read: every row is a pair, whatever its rating; data.min_rating=X takes some"
        )


def _read(
    files: Mapping[str, Path],
    columns: Mapping[str, str | None],
    form: CsvFormat,
    min_rating: float | None,
    core: Sequence[int] | None,
) -> tuple[Log, str]:
    """Every pair of the files once, and in words what was found, read and left out.

    Raises:
        ValueError: no pair is left.
    """
    reader = _LogReader(columns, form, min_rating)
    for split in (split for split in SPLITS if split in files):
        reader.read(files[split], split)
    log = reader.log()
    left_out, before = reader.left_out, len(log)
    log = without_repeats(log)
    left_out["that repeat a pair"] = before - len(log)
    if core is not None:
        before, log = len(log), within_core(log, core)
        left_out[f"by data.core=[{core[0]},{core[1]}]"] = before - len(log)
    users, items = (np.count_nonzero(np.bincount(numbers)) for numbers in (log.users, log.items))
    words = f"found {reader.found:,} rows, read {len(log):,} pairs of {users:,} users and {items:,} items"
    if listed := ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count):
        words += f"; left out: {listed}"
    if not len(log):
        raise ValueError(f"data.root: no pairs in {', '.join(shown(file.name) for file in files.values())}: {words}")
    return log, words


class _Numbers(dict[str, int]):
    """Cell -> the number of its name, in the order of appearance; -1 of an empty one. `names` has the names."""

    def __init__(self) -> None:
        super().__init__({"": -1})
        self.names: list[str] = []

    def __missing__(self, cell: str) -> int:
        name = cell.strip()
        if name != cell:
            self[cell] = number = self[name]
            return number
        self[name] = number = len(self.names)
        self.names.append(name)
        return number

    def of(self, cells: Sequence[str]) -> np.ndarray:
        return np.fromiter(map(self.__getitem__, cells), np.int32, len(cells))


class _LogReader:
    """Rows of files, as arrays; and how many were found, and left out for what reason."""

    def __init__(self, columns: Mapping[str, str | None], form: CsvFormat, min_rating: float | None):
        self.columns, self.form, self.min_rating = columns, form, min_rating
        self.found, self.left_out, self.dates = 0, Counter[str](), False
        self.users, self.items = _Numbers(), _Numbers()
        self.parts: list[tuple[np.ndarray, ...]] = []  # of rows: user, item, time if it is read, split

    def read(self, file: Path, split: str) -> None:
        """Raises ValueError where a column is not there, or a cell is no rating or time."""
        table = CsvTable(file, self.form, [name for name in self.columns.values() if name])
        roles = [role for role, name in self.columns.items() if name is not None or role in ("user", "item")]
        columns = {role: table.column(role, self.columns[role]) for role in roles}
        check_roles({role: [name] for role, name in columns.items()})
        where = {role: f"data.{role}={name}: {shown(file.name)}" for role, name in columns.items()}
        times = TimeColumn()
        for rows, cells in table.chunks(list(columns.values())):
            of = dict(zip(columns, cells, strict=True))
            users, items = self.users.of(of["user"]), self.items.of(of["item"])
            kept = np.ones(len(rows), bool)
            self._leave_out(kept, users < 0, "without a user")
            self._leave_out(kept, items < 0, "without an item")
            if "rating" in of:
                ratings = floats(of["rating"], rows, where["rating"])
                self._leave_out(kept, np.isnan(ratings), "without a rating")
                self._leave_out(kept, ratings < self.min_rating, f"rated below {self.min_rating}")
            arrays = [users, items]
            if "time" in of:
                arrays.append(times.read(of["time"], rows, where["time"]))
                self._leave_out(kept, np.isnan(arrays[-1]), "without a time")
            self.found += len(rows)
            arrays.append(np.full(len(rows), SPLITS.index(split), np.int8))
            self.parts.append(tuple(array[kept] for array in arrays))
        self.dates = bool(times.dates)

    def log(self) -> Log:
        joined = [np.concatenate(arrays) for arrays in zip(*self.parts, strict=True)] or [np.zeros(0, np.int32)] * 3
        self.parts.clear()
        times = joined[2] if len(joined) > 3 else None
        return Log(joined[0], joined[1], self.users.names, self.items.names, times, joined[-1], self.dates)

    def _leave_out(self, kept: np.ndarray, out: np.ndarray, why: str) -> None:
        self.left_out[why] += int((kept & out).sum())
        kept &= ~out
