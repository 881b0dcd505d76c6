"""Files as LightGCN's repository has them."""

import pytest
import torch

from repel.interactions import lightgcn_files
from repel.interactions.lightgcn_files import interactions_lightgcn

HELD_OUT = {"val_fraction": 0.2, "test_fraction": 0.2, "split_seed": 0}


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder)


def named(part) -> list[tuple[str, str]]:
    return [(part.store.user_name(user), part.store.item_name(item)) for user, item in part.x.tolist()]


def plain(text: str) -> set[tuple[str, str]]:
    """The format once more, a Python string a number."""
    rows = [line.split() for line in text.splitlines()]
    return {(row[0], item) for row in rows if row for item in row[1:]}


@pytest.mark.parametrize("block", [1, 7, 2**24])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_any_length(block, end, tmp_path, monkeypatch):
    monkeypatch.setattr(lightgcn_files, "BLOCK", block)
    train = "0 3 1 2\n\n1 0\n  12\t3  10 \n2\n7 5 4 3 2 1 0 999999999 6 8 9"
    test = "1 2 3\n0 0\n"
    root = write(tmp_path, train=b"\xef\xbb\xbf" + train.replace("\n", end).encode(), test=test, valid="7 11\n0 4")
    splits = interactions_lightgcn(root, **HELD_OUT)
    assert {*named(splits.train)} == plain(train)
    assert {*named(splits.test)} == plain(test)
    assert {*named(splits.val)} == {("7", "11"), ("0", "4")}
    assert list(splits.train.store.user_names) == ["0", "1", "7", "12"]  # 2 has no item
    assert splits.train.store.item_names == ["0", "1", "2", "3", "4", "5", "6", "8", "9", "10", "11", "999999999"]
    assert splits.train.x.dtype == torch.int32


def test_validation_pairs_are_held_out_of_train(tmp_path):
    rows = "\n".join(f"{user} " + " ".join(str(item) for item in range(user % 7, 40)) for user in range(50))
    splits = interactions_lightgcn(
        write(tmp_path, train=rows, test="\n".join(f"{u} 41" for u in range(50))), **HELD_OUT
    )
    assert len(splits.test) == 50
    assert len(splits.train) + len(splits.val) == len(plain(rows))
    assert 0.15 < len(splits.val) / len(plain(rows)) < 0.25
    assert not {*named(splits.train)} & {*named(splits.val)}


def test_repeats_and_users_without_training_pairs_are_counted(tmp_path, capsys):
    root = write(tmp_path, train="0 1 1 2\n1 1 2\n0 1", val="0 3", test="0 1 4\n5 1 2\n")
    splits = interactions_lightgcn(root, **HELD_OUT)
    assert named(splits.test) == [("0", "4")]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "pairs    train.txt, val.txt, test.txt: read 8 pairs of 3 users and 4 items; left out: 3 that repeat a pair",
        "note     left out: users without a training pair (1), with their pairs (2)",
        "note     items without a training pair: 2 of 4; they stay in the ranking",
    ]


def test_one_file_is_divided(tmp_path):
    rows = "\n".join(f"{user} " + " ".join(map(str, range(20))) for user in range(20))
    splits = interactions_lightgcn(f"{write(tmp_path, log=rows)}/log.txt", **HELD_OUT)
    parts = [{*named(part)} for part in (splits.train, splits.val, splits.test)]
    assert set.union(*parts) == plain(rows)
    assert sum(map(len, parts)) == 400
    assert all(40 < len(part) < 120 for part in parts[1:])


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("0 1\n1 2 x3 4\n", "train.txt, line 2: 'x3' is no number from 0 to 999,999,999; data=interactions_csv"),
        ("0 1\n\n2 -3", "line 3: '-3' is no number"),
        ("0 1.5", "line 1: '1.5' is no number"),
        ("0 1\n0 12345678901234567890", "line 2: '12345678901234567890' is no number"),
        ("0 \U0001f600", "line 1: '\U0001f600' is no number"),
        ("0\n1\n", "train.txt has no pairs"),
        ("", "train.txt has no pairs"),
    ],
)
def test_mistakes_in_a_file(train, words, tmp_path):
    with pytest.raises(ValueError, match=r"data\.root") as caught:
        interactions_lightgcn(write(tmp_path, train=train, test="0 2"), **HELD_OUT)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_in_options(tmp_path):
    root = write(tmp_path, train="0 1 2 3", test="0 4")
    for options, words in (
        ({"split": "time"}, "data.split=time needs times"),
        ({"split": "random"}, "data.split=random divides one file"),
        ({"root": str(tmp_path / "none")}, "there is no such file or folder"),
        ({"root": f"{root}/train.txt", "split": "given"}, "data.split=given needs a folder with train and test"),
        ({"item_name": "x"}, "data.item_name=x is a column of data.items=FILE"),
    ):
        with pytest.raises(ValueError, match=r"data\.") as caught:
            interactions_lightgcn(**{"root": root, **HELD_OUT, **options})
        assert words in str(caught.value)
