"""embed.py and search of users and items."""

import csv
import json
import sys

import numpy as np
import pytest
import torch.nn.functional as F
from item_runs import ITEMS, USERS, pair_run, weights

from repel.cli import search as command
from repel.export.embed import embed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pair_run(tmp_path_factory.mktemp("pairs") / "run")


def rows(folder) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_user_and_item_has_a_row_and_its_vector(run, done, capsys):
    folder = done(embed, f"ckpt={run}")
    assert capsys.readouterr().out.splitlines()[-2:] == [f"users    {USERS}", f"items    {ITEMS}"]
    assert np.array_equal(np.load(folder / "features.npy"), weights(run).numpy())
    found = rows(folder)
    assert [(row["name"], row["split"]) for row in found] == [
        *((str(user), "users") for user in range(USERS)), *((str(item), "items") for item in range(ITEMS)),
    ]  # fmt: skip
    assert [row["test_pairs"] for row in found[:USERS]] == ["1"] * USERS
    assert {int(row["train_pairs"]) + int(row["val_pairs"]) for row in found[:USERS]} == {3}
    assert sum(int(row["test_pairs"]) for row in found[USERS:]) == USERS
    record = json.loads((folder / "embedding.json").read_text(encoding="utf-8"))
    assert (record["users"], record["items"]) == (USERS, ITEMS)


def searched(capsys, *typed: object) -> tuple[int, list[str], str]:
    sys.argv = ["search.py", *map(str, typed)]
    status = command.main()
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


@pytest.mark.parametrize("side", ["users", "items"])
def test_the_nearest_of_an_item_are_items(run, done, capsys, side):
    folder = done(embed, f"ckpt={run}")
    table = F.normalize(weights(run), dim=1)
    own = table[:USERS] if side == "users" else table[USERS:]
    capsys.readouterr()
    status, lines, _ = searched(capsys, 5, folder, "k=4", *([f"side={side}"] if side == "users" else []))
    assert status == 0
    expected = (own @ own[5]).argsort(descending=True)[:4].tolist()
    assert [int(line.split()[-1]) for line in lines] == expected
    assert lines[0].split() == ["1.0000", "5"]


def test_mistakes_are_one_line(run, done, capsys):
    folder = done(embed, f"ckpt={run}")
    capsys.readouterr()
    for typed, words in ((["2x"], "no 2x among the items; did you mean 2"), ([1, "side=left"], "side must be"),
                         ([1, "out=a.png"], "out= is for a drawing")):  # fmt: skip
        status, _, err = searched(capsys, typed[0], folder, *typed[1:])
        assert (status, err.count("\n")) == (2, 1)
        assert words in err
