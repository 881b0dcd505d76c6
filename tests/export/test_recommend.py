"""scripts/recommend.py: what a run ranks first, for a user and for somebody new."""

import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from item_runs import ITEMS, USERS, pair_run, weights

from repel.cli import recommend as command
from repel.export.recommend import Catalog, open_catalog, recommend_for_items, recommend_for_user
from repel.interactions.pairs import EntityStore


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pair_run(tmp_path_factory.mktemp("pairs") / "run")


def printed(capsys, *typed: object) -> tuple[int, str, str]:
    sys.argv = ["recommend.py", *map(str, typed)]
    status = command.main()
    out, err = capsys.readouterr()
    return status, out, err


def test_the_ranking_is_that_of_the_cosines(run):
    table = F.normalize(weights(run), dim=1)
    cosines = table[7] @ table[USERS:].T
    found = recommend_for_user(open_catalog(str(run), None, None), "7", ITEMS, exclude_known=False)
    assert [int(one.name) for one in found] == cosines.argsort(descending=True).tolist()
    assert [one.cosine for one in found] == pytest.approx(cosines.sort(descending=True).values.tolist(), abs=1e-6)


def split_of_user(run, user: int) -> dict[str, set[str]]:
    lines = {name: (run.with_name("run_pairs") / f"{name}.txt").read_text().splitlines() for name in ("train", "test")}
    return {name: set(rows[user].split()[1:]) for name, rows in lines.items()}


def test_hits_are_marked_and_what_is_known_is_left_out(run):
    catalog, files = open_catalog(str(run), None, None), split_of_user(run, 7)
    marks = {one.name: one.mark for one in recommend_for_user(catalog, "7", ITEMS, exclude_known=False)}
    assert {name for name, mark in marks.items() if mark == "hit"} == files["test"]
    assert {name for name, mark in marks.items() if mark in ("train", "val")} == files["train"]
    without = recommend_for_user(catalog, "7", ITEMS, exclude_known=True)
    assert {one.name for one in without} == set(marks) - files["train"]


def named_catalog() -> Catalog:
    items = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]), dim=1)
    labels = torch.tensor([0, 1, 1, -1])
    store = EntityStore(2, 4, ("bash", "sed"), ("libc6", "zlib1g", "perl", "tcl"), labels, ["libs", "tools"])
    pairs = {"train": torch.tensor([[0, 0]]), "val": torch.tensor([[0, 3]]), "test": torch.tensor([[0, 2], [1, 1]])}
    return Catalog(items, lambda user: F.normalize(torch.tensor([2.0, 1.0]), dim=0), pairs, store)


def test_names_labels_and_marks():
    found = recommend_for_user(named_catalog(), "bash", 4, exclude_known=False)
    assert [one[1:] for one in found] == [
        ("perl", "tools", "hit"), ("libc6", "libs", "train"), ("zlib1g", "tools", ""), ("tcl", "", "val"),
    ]  # fmt: skip


def test_somebody_new_is_the_mean_of_the_items():
    found = recommend_for_items(named_catalog(), ["libc6", "zlib1g"], 4, exclude_known=False)
    marks = [(one.name, one.mark) for one in found]
    assert marks == [("perl", ""), ("libc6", "given"), ("zlib1g", "given"), ("tcl", "")]
    assert found[0].cosine == pytest.approx(1, abs=1e-6)
    without = recommend_for_items(named_catalog(), ["libc6", "zlib1g"], 4, exclude_known=True)
    assert [one.name for one in without] == ["perl", "tcl"]


def test_an_item_may_be_named_by_its_title():
    catalog = named_catalog()
    titles = ("GNU C Library", "compression", "Tcl", "Tcl")
    catalog = catalog._replace(store=replace(catalog.store, item_titles=titles))
    found = recommend_for_items(catalog, ["GNU C Library", "perl"], 4, exclude_known=False)
    assert {one.name for one in found if one.mark == "given"} == {"GNU C Library", "Tcl"}
    with pytest.raises(ValueError, match="there is no item Tcl"):
        recommend_for_items(catalog, ["Tcl"], 4, exclude_known=False)


def test_the_command_prints_it(run, capsys):
    status, out, _ = printed(capsys, run, 7, "k=5", "--exclude-known")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3", "4", "5"]
    status, out, _ = printed(capsys, run, "items=[3,7]", "k=2")
    assert (status, len(out.splitlines())) == (0, 3)
    assert "the mean of 2 items' unit vectors" in out


@pytest.mark.parametrize(("typed", "words"), [
    ((99,), "there is no user 99"), (("items=[x]",), "no item x"), ((), "name a run and a user"),
    ((1, "items=[2]"), "name a run and a user"), ((1, "k=0"), "k must be"), ((1, "kk=2"), "unknown option kk"),
    (("items=[]",), "items must be a list"), ((1, "--exclude-known=1"), "takes no value"),
    ((1, "checkpoint=first"), "checkpoint must be"), ((1, "data_root=/nowhere"), ""),
])  # fmt: skip
def test_mistakes_are_one_line(run, typed, words, capsys):
    status, _, err = printed(capsys, run, *typed)
    assert (status, err.count("\n")) == (2, 1)
    assert words in err


def test_without_names_there_are_numbers():
    catalog = named_catalog()
    catalog = catalog._replace(store=EntityStore(2, 4))
    assert [one.name for one in recommend_for_user(catalog, "0", 2, exclude_known=True)] == ["2", "1"]
    with pytest.raises(ValueError, match="there is no user 2: this data has numbers, 0 to 1"):
        recommend_for_user(catalog, "2", 2, exclude_known=True)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"there is no user bsah; did you mean bash\?"):
        recommend_for_user(named_catalog(), "bsah", 4, exclude_known=False)
    with pytest.raises(ValueError, match=r"there is no item libc-6; did you mean libc6\?"):
        recommend_for_items(named_catalog(), ["libc-6"], 4, exclude_known=False)
