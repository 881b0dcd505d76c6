"""Anyone's own log in a CSV file."""

import codecs
import random

import pytest
import torch

from repel.interactions import csv_columns
from repel.interactions.csv_logs import interactions_csv

FRACTIONS = {"val_fraction": 0.2, "test_fraction": 0.2, "split_seed": 0}
ROWS = [(f"u{n % 7}", f"i{n % 11}", n % 5 + 1, 1000 - n) for n in range(60)]  # 60 different pairs, latest first


def read(file, **options):
    return interactions_csv(str(file), **{**FRACTIONS, **options})


def written(path, rows=ROWS, names=("user", "item", "stars", "when"), separator=",", end="\n", encoding="utf-8"):
    lines = [separator.join(map(str, row)) for row in ([names] if names else []) + list(rows)]
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def pairs(splits) -> set[tuple[str, str]]:
    """By name, of all splits; none is in two."""
    store = splits.train.store
    found = [(store.user_name(user), store.item_name(item))
             for part in (splits.train, splits.val, splits.test) for user, item in part.x.tolist()]  # fmt: skip
    assert len(found) == len({*found})
    return {*found}


def mistake(capsys, file, **options) -> str:
    with pytest.raises(ValueError, match=r"data\.") as caught:
        read(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("end", "encoding"), [("\n", "utf-8"), ("\r\n", "utf-8-sig"), ("\r", "utf-16")])
def test_however_the_file_is_written(separator, end, encoding, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(csv_columns, "ROWS", 7)
    splits = read(written(tmp_path / "log.csv", separator=separator, end=end, encoding=encoding))
    assert pairs(splits) == {row[:2] for row in ROWS}
    assert splits.train.x.dtype == torch.int32
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "pairs    log.csv: found 60 rows, read 60 pairs of 7 users and 11 items"


def test_order_of_rows_does_not_matter(tmp_path):
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    for options in ({}, {"split": "time", "time": "when"}, {"split": "last", "time": "when"}):
        a, b = (read(written(tmp_path / "log.csv", rows), **options) for rows in (ROWS, shuffled))
        for split in ("train", "val", "test"):
            assert torch.equal(getattr(a, split).x, getattr(b, split).x)
        assert a.train.store.item_names == b.train.store.item_names


def test_ids_of_all_kinds(tmp_path, capsys):
    huge, face, long = "9" * 40, "\U0001f600", "x" * 20_000
    users, items = (huge, face, long, " 7 ", "7,5", 'a "b"', "é"), (huge, face, "0", "00", "-1")
    rows = [(user, item) for user in users for item in items]
    quoted = [tuple('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    splits = read(written(tmp_path / "log.csv", [*quoted, (" ", face), (face, ""), ("", "")], ("user_id", "itemId")))
    assert pairs(splits) == {(user.strip(), item) for user, item in rows}
    assert "found 38 rows, read 35 pairs of 7 users and 5 items; left out: 2 without a user, 1 without an item" in (
        capsys.readouterr().out
    )


def test_ratings_below_the_least_are_left_out(tmp_path, capsys):
    rows = [*ROWS, ("u0", "new", "", 1), ("u0", "neither", "nan", 1), ("u1", "bad", -3, 1), ("u1", "half", 2.5, 1)]
    splits = read(written(tmp_path / "log.csv", rows), rating="stars", min_rating=2.5)
    assert pairs(splits) == {(u, i) for u, i, stars, _ in ROWS if stars >= 2.5} | {("u1", "half")}
    assert "left out: 2 without a rating, 25 rated below 2.5" in capsys.readouterr().out
    assert len(pairs(read(written(tmp_path / "log.csv", rows), rating="stars"))) == 64
    assert "note     data.rating is not read" in capsys.readouterr().out


@pytest.mark.parametrize("dates", [False, True])
def test_last_by_numbers_and_dates(dates, tmp_path):
    def when(row):
        return f"2024-01-{row[3] % 28 + 1:02d} 00:{row[3] // 28:02d}:00" if dates else row[3]

    timed = [(*row[:3], when(row)) for row in ROWS]
    splits = read(written(tmp_path / "log.csv", timed), split="last", time="when")
    latest = {user: max((row for row in timed if row[0] == user), key=lambda row: row[3])[1] for user, *_ in timed}
    store = splits.test.store
    assert {store.user_name(u): store.item_name(i) for u, i in splits.test.x.tolist()} == latest


def test_dates_say_from_when_test_is(tmp_path, capsys):
    rows = [*((f"u{n % 5}", f"i{n}", 1, f"2024-{n % 6 + 1:02d}-01T12:00:00Z") for n in range(30)), ("u1", "x", 1, "")]
    splits = read(written(tmp_path / "log.csv", rows), split="time", time="when")
    assert {splits.test.store.item_name(item) for item in splits.test.x[:, 1]} == {f"i{n}" for n in range(5, 30, 6)}
    out = capsys.readouterr().out
    assert "left out: 1 without a time" in out
    assert "note     validation is from 2024-05-01 12:00:00 on, test from 2024-06-01 12:00:00 on, of 6 times" in out


def test_repeats_rows_without_cells_and_unread_columns(tmp_path, capsys):
    file = written(tmp_path / "log.csv", [*ROWS, *ROWS[:9], ("u1",), ("u2", "i2")])
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\n\n,,,\n")
    assert pairs(read(file)) == {row[:2] for row in ROWS}
    assert "found 72 rows, read 60 pairs" in (out := capsys.readouterr().out)
    assert "left out: 1 without a user, 1 without an item, 10 that repeat a pair" in out


def test_users_and_items_that_training_does_not_have(tmp_path, capsys):
    rows = [(f"u{n % 4}", f"i{n % 9}", 1, n) for n in range(36)] + [("late", "i0", 1, 99), ("u0", "new", 1, 98)]
    splits = read(written(tmp_path / "log.csv", rows), split="time", time="when")
    assert "late" not in splits.train.store.user_names
    assert "new" in splits.train.store.item_names
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [
        "note     left out: users without a training pair (1), with their pairs (1)",
        "note     items without a training pair: 1 of 10; they stay in the ranking",
    ]


def test_core(tmp_path, capsys):
    rows = [*ROWS, ("once", "i1", 1, 1), ("u1", "rare", 1, 1)]
    assert pairs(read(written(tmp_path / "log.csv", rows), core=[3, 2])) == {row[:2] for row in ROWS}
    assert "2 by data.core=[3,2]" in capsys.readouterr().out


def test_splits_that_are_given(tmp_path, capsys):
    written(tmp_path / "train.csv", ROWS[:40])
    written(tmp_path / "test.csv", [*ROWS[35:50], ("stranger", "i1", 1, 1)], ("item", "user", "stars", "when"))
    assert "the column" not in mistake(capsys, tmp_path, split="random")
    written(tmp_path / "test.csv", [*ROWS[35:50], ("stranger", "i1", 1, 1)])
    capsys.readouterr()
    splits = read(tmp_path)
    assert len(splits.test) == 10
    assert len(splits.train) + len(splits.val) == 40
    assert len(splits.val) > 2
    out = capsys.readouterr().out
    assert "train.csv, test.csv: found 56 rows, read 51 pairs" in out
    assert "left out: 5 that repeat a pair" in out
    written(tmp_path / "valid.csv", ROWS[50:])
    assert len(read(tmp_path, split="given").val) == 10


def test_without_names_of_columns(tmp_path):
    file = written(tmp_path / "u.data", ROWS, None, "\t")
    assert pairs(read(file, header=False, user=1, item=2)) == {row[:2] for row in ROWS}


@pytest.mark.parametrize(
    ("text", "options", "end"),
    [
        ("1\t7\t5\n2\t8\t4\n", {}, "has 1, 7, 5; if this row is an interaction, as others are, data.header=false "
         "data.user=1 data.item=2"),
        ("1::7::5\n", {"header": False, "user": 1, "item": 2}, r"sed 's/::/\t/g' puts tabs there"),
        ("0 3 4 5\n1 4 5\n", {}, "data=interactions_lightgcn reads lines of a user and its items"),
        ("", {}, "data.root: log.csv is empty, or begins with an empty line"),
        ("who,what\na,b\n", {}, "log.csv has who, what"),
    ],
)  # fmt: skip
def test_files_that_are_written_otherwise(tmp_path, capsys, text, options, end):
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    assert mistake(capsys, tmp_path / "log.csv", **options).endswith(end)


def test_names_of_columns_as_recbole_writes_them(tmp_path):
    names = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    file = written(tmp_path / "set.inter", ROWS, names, "\t")
    assert pairs(read(file, rating="rating", min_rating=2)) == {row[:2] for row in ROWS if row[2] >= 2}


def test_titles_and_labels_of_items(tmp_path, capsys):
    log = written(tmp_path / "log.csv")
    rows = [*((f"i{n}", f"Item, the {n}th", "even" if n % 2 == 0 else "odd") for n in range(9)), ("i9", "", "")]
    items = written(tmp_path / "items.csv", rows, ("item", "title", "kind"), ";")
    splits = read(log, items=str(items), item_name="title", item_label="kind")
    store = splits.train.store
    number = store.item_names.index
    assert [store.item_name(number(name)) for name in ("i0", "i9", "i10")] == ["Item, the 0th", "i9", "i10"]
    assert store.classes == ["even", "odd"]
    assert [int(store.item_labels[number(name)]) for name in ("i0", "i1", "i9", "i10")] == [0, 1, -1, -1]
    assert splits.test.store is splits.val.store is store
    assert "items    items.csv: of 11 items, 9 have a name, 9 have a label" in capsys.readouterr().out
    plain = read(log)
    assert torch.equal(plain.test.x, splits.test.x)
    assert torch.equal(plain.test.keys(), splits.test.keys())  # titles are no names
    assert mistake(capsys, log, items=str(items)).startswith(f"data.items={items} needs data.item_name=COLUMN")
    assert "data.item_name=x: items.csv has no such column" in mistake(capsys, log, items=str(items), item_name="x")
    strange = written(tmp_path / "items.csv", [("tt1", "A")], ("item", "title"))
    assert "lists none of the items of the log, such as 'i0'; its own are such as 'tt1'" in mistake(
        capsys, log, items=str(strange), item_name="title"
    )
    written(tmp_path / "items.csv", [("i1", "A", "B", "C")], ("item", "title"))
    assert mistake(capsys, log, items=str(strange), item_name="title").startswith(
        f"data.items={items}: items.csv, row 2"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"root": "none.csv"}, "none.csv: there is no such file or folder"),
        ({"user": "person"}, "data.user=person: log.csv has no such column; it has user, item, stars, when"),
        ({"time": "date", "split": "last"}, "data.time=date: log.csv has no such column"),
        ({"split": "last"}, "data.split=last needs data.time=COLUMN"),
        ({"split": "time"}, "data.split=time needs data.time=COLUMN"),
        ({"split": "monthly"}, "data.split must be one of auto, given, random, last, time, got 'monthly'"),
        ({"split": "given"}, "data.split=given needs a folder with train and test files"),
        ({"min_rating": 3}, "data.min_rating=3 needs data.rating=COLUMN"),
        ({"min_rating": "four", "rating": "stars"}, "data.min_rating must be a number, got 'four'"),
        ({"min_rating": 3, "rating": "item"}, "data.item and data.rating: the column item is named twice"),
        ({"min_rating": 9, "rating": "stars"}, "data.root: no pairs in log.csv: found 60 rows, read 0"),
        ({"core": 5}, "data.core must be [a,b]"),
        ({"core": [5, 0]}, "data.core must be [a,b]"),
        ({"core": [60, 60]}, "60 by data.core=[60,60]"),
        ({"items": "none.csv", "item_name": "title"}, "data.items=none.csv: there is no such file"),
        ({"item_label": "kind"}, "data.item_label=kind is a column of data.items=FILE; name the file, too"),
        ({"item_text": "about"}, "data.item_text=about is a column of data.items=FILE; name the file, too"),
        ({"encoding": "latin-99"}, "data.encoding=latin-99: Python knows no such encoding"),
        ({"header": False, "user": 1, "item": 9}, "data.item=9: log.csv has no such column; it has 1, 2, 3, 4"),
    ],
)
def test_mistakes_in_options(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "log.csv")
    typed = {"user": "user", "item": "item"} | options
    assert words in mistake(capsys, typed.pop("root", "log.csv"), **typed)


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        (("u", "i", "4,5", 1), {"rating": "stars", "min_rating": 1}, "row 62: 5 cells, and the first row has 4"),
        (
            ("u", "i", '"4,5"', 1),
            {"rating": "stars", "min_rating": 1},
            "'4,5' is no number; decimals stand behind",
        ),
        (
            ("u", "i", "good", 1),
            {"rating": "stars", "min_rating": 1},
            "log.csv, row 62: 'good' is no",
        ),
        (("u", "i", 1, "inf"), {"time": "when", "split": "last"}, "data.time=when: log.csv, row 62: inf is no finite"),
        (("u", "i", 1, "2024-01-01"), {"time": "when", "split": "time"}, "row 62: '2024-01-01' is no number"),
        (("u", '"i', 1, 1), {}, "log.csv, line 6"),
    ],
)
def test_mistakes_in_a_row(row, options, words, tmp_path, capsys):
    assert words in mistake(capsys, written(tmp_path / "log.csv", [*ROWS, row]), **options)


def test_mistakes_in_times_and_names(tmp_path, capsys):
    rows = [(u, i, s, f"2024-01-{t % 28 + 1:02d}") for u, i, s, t in ROWS]
    file = written(tmp_path / "log.csv", [*rows, ("u", "i", 1, "31.12.2024")])
    assert "row 62: '31.12.2024' is no date as 2024-12-31" in mistake(capsys, file, time="when", split="last")
    file = written(tmp_path / "log.csv", ROWS, ("who", "item", "stars", "when"))
    assert "data.user=COLUMN must say which column holds the users; log.csv has who, item" in mistake(capsys, file)
    file = written(tmp_path / "log.csv", ROWS, ("user", "item", "item", "when"))
    assert "data.item=item: log.csv has two columns of this name" in mistake(capsys, file, item="item")
    (tmp_path / "log.csv").write_bytes(b"user,item\nu,caf\xe9\n")
    assert "log.csv is not UTF-8 (line 2)" in mistake(capsys, tmp_path / "log.csv")
    (tmp_path / "log.csv").write_bytes(codecs.BOM_UTF8)
    assert "log.csv is empty" in mistake(capsys, tmp_path / "log.csv")
    one = mistake(capsys, written(tmp_path / "log.csv", [("u", f"i{n}", 1, n) for n in range(60)]))
    assert one == "data.user: all 60 pairs are of one user; there is nothing to rank by"
    file = written(tmp_path / "log.csv", ROWS[:2])
    assert "data.split: no pair is left for val, of 2" in mistake(capsys, file)
