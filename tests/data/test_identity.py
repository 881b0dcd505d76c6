"""Which samples a run has: drawn by their names, recorded, compared; of texts, as of any modality."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from token_modality import tokens

from repel.data.identity import changes, check_unchanged, digest, name_keys, overlap, record_of, without_trained
from repel.data.samples import CompleteSplits, Splits
from repel.data.splits import held_out

NAMES = [f"{kind}/{i:04d}.txt" for kind in ("news", "mail") for i in range(300)]


def texts(names, labels=None):
    """A text of each name; the label is its folder's."""
    folders = sorted({name.split("/")[-2] for name in names})
    made = torch.tensor([folders.index(name.split("/")[-2]) for name in names]) if labels is None else labels
    return replace(tokens(len(names)), names=np.array(names, dtype=object), labels=made)


def drawn(names, split_by="name", seed=0, **kw) -> CompleteSplits:
    return held_out(Splits(texts(names, **kw)), 0.1, 0.1, seed, split_by)


def members(splits: CompleteSplits) -> dict[str, set[str]]:
    return {part: set(getattr(splits, part).names) for part in ("train", "val", "test")}


def test_a_key_depends_on_the_name_alone():
    """The value is fixed: splits and checkpoints of other versions and machines rely on it."""
    assert name_keys(["a/b.png", "ü\udcff"]).tolist() == [6081340755068888190, 3709421293727634248]
    assert name_keys([]).shape == (0,)
    assert texts(NAMES)[torch.tensor([7])].keys().tolist() == name_keys(NAMES[7:8]).tolist()
    assert tokens(3).keys() is None


@pytest.mark.parametrize("removed", [range(0, 600, 4), range(100)])
def test_samples_that_come_or_go_move_no_other(removed):
    kept = [name for i, name in enumerate(NAMES) if i not in set(removed)]
    whole, few = members(drawn(NAMES)), members(drawn([*kept, "news/new.txt"]))
    for part in whole:
        assert whole[part] & set(kept) == few[part] - {"news/new.txt"}, part
    by_place = members(drawn(kept, "place"))
    assert by_place["test"] & members(drawn(NAMES, "place"))["train"]  # which the rule is for


def test_shares_are_about_the_fraction_and_no_split_depends_on_another():
    names = [f"a/{i}" for i in range(20_000)]
    parts = [drawn(names, seed=seed) for seed in (0, 1)]
    assert len(parts[0].test) == pytest.approx(2000, abs=4 * (20_000 * 0.1 * 0.9) ** 0.5)
    assert len(parts[0].val) == pytest.approx(1800, abs=4 * (18_000 * 0.1 * 0.9) ** 0.5)
    common = members(parts[0])["test"] & members(parts[1])["test"]
    assert len(common) == pytest.approx(200, abs=60)  # another seed, another draw


def test_few_samples_unlabeled_ones_and_samples_without_names():
    assert [len(part) for part in (drawn(NAMES[:9]).test, drawn(NAMES[:9]).val)] == [2, 2]
    labels = torch.where(torch.arange(600) < 100, 0, -1)
    splits = drawn(NAMES, labels=labels)
    assert (splits.test.labels >= 0).all()
    assert (splits.val.labels >= 0).all()
    nameless = [held_out(Splits(tokens(60)), 0.1, 0.1, 0, by) for by in ("name", "place")]
    assert torch.equal(nameless[0].test.x, nameless[1].test.x)
    assert torch.equal(nameless[0].val.x, nameless[1].val.x)


def test_changes_are_counted():
    whole = drawn(NAMES)
    before = record_of(whole)
    assert str(changes(before, whole)) == ""
    now = drawn(["mail/more.txt", *NAMES[30:]])
    assert changes(before, now) == (1, 30, 0, "mail/more.txt")
    place = torch.arange(len(whole.train))
    moved = replace(whole, train=whole.train[place >= 5])
    moved = replace(moved, test=texts([*whole.test.names, *whole.train[place < 5].names]))
    assert str(changes(before, moved)) == "5 samples moved to another split"
    assert changes(before, Splits(texts(NAMES))) == (0, 0, 0, "")  # as read: what is held out later has not moved


def test_resume_wants_the_same_samples_in_the_same_order_with_the_same_labels():
    whole = drawn(NAMES)
    before = record_of(whole)
    check_unchanged(before, whole, "data.root=d")
    shuffled = replace(whole, train=whole.train[torch.arange(len(whole.train)).flip(0)])
    relabeled = replace(whole, val=whole.val.with_labels(1 - whole.val.labels))
    for splits, word in ((drawn(NAMES[30:]), "30 samples removed"), (shuffled, "another order"), (relabeled, "labels")):
        with pytest.raises(ValueError, match=rf"data\.root=d.*{word}.*data_root=") as caught:
            check_unchanged(before, splits, "data.root=d")
        assert "\n" not in str(caught.value)
    nameless = held_out(Splits(tokens(60)), 0.1, 0.1, 0)
    check_unchanged(record_of(nameless), nameless, "data")
    with pytest.raises(ValueError, match="train split has 47 samples and had 49"):
        check_unchanged(record_of(nameless), replace(nameless, train=nameless.train[torch.arange(47)]), "data")


@pytest.mark.parametrize("split_by", ["name", "place"])
def test_nothing_is_tested_that_was_trained_on(split_by):
    """Drawn by place, as many of the test samples of now were; these are left out, and a line counts them."""
    first = drawn(NAMES, split_by)
    was, now = members(first), drawn([*NAMES[150:], "news/new.txt"], split_by)
    splits, words = without_trained(record_of(first), now, "data")
    kept = members(splits)
    assert not kept["test"] & (was["train"] | was["val"])
    assert not kept["val"] & was["train"]
    assert words.startswith("1 sample added (the first: news/new.txt), 150 samples removed")
    left_out = len(now.test) + len(now.val) - len(splits.test) - len(splits.val)
    assert (left_out == 0) == (split_by == "name")
    assert (f"{left_out} of validation and test are left out" in words) == (left_out > 0)
    assert len(splits.test) > 0


def test_other_labels_and_names_are_said():
    """A table of labels that was edited; a class folder that was renamed, whose images count as new ones."""
    for whole in (drawn(NAMES), held_out(Splits(tokens(60)), 0.1, 0.1, 0)):
        relabeled = replace(whole, test=whole.test.with_labels(torch.full((len(whole.test),), 7)))
        splits, words = without_trained(record_of(whole), relabeled, "data")
        assert (splits, words) == (relabeled, "the labels of test are others")
    renamed = drawn([name.replace("mail/", "letters/") for name in NAMES])
    assert "if files or folders were renamed" in without_trained(record_of(drawn(NAMES)), renamed, "data")[1]
    assert "renamed" not in without_trained(record_of(drawn(NAMES)), drawn(NAMES[30:]), "data")[1]


def test_a_digest_tells_data_apart():
    whole, nameless = record_of(drawn(NAMES)), record_of(held_out(Splits(tokens(60)), 0.1, 0.1, 0))
    assert digest(whole) == digest(record_of(drawn(NAMES)))
    relabeled = whole | {"test": whole["test"] | {"labels": "others"}}
    more = nameless | {"val": nameless["val"] | {"size": 9}}
    assert len({digest(r) for r in (whole, relabeled, record_of(drawn(NAMES[1:])), nameless, more)}) == 5


def test_unchanged_data_stays_whole_also_where_splits_share_names():
    splits = CompleteSplits(texts(NAMES[:50]), texts(NAMES[:20]), texts(NAMES[:20]), [], [])
    assert without_trained(record_of(splits), splits, "data") == (splits, "")
    fewer = replace(splits, train=splits.train[torch.arange(40)], test=texts([*NAMES[:20], "new/1.txt"]))
    assert len(without_trained(record_of(splits), fewer, "data")[0].test) == 21


def test_a_file_that_moved_from_train_to_test_was_trained_on():
    names = [f"train/{name}" for name in NAMES[:50]], [f"test/{name}" for name in NAMES[50:70]]
    before = record_of(held_out(Splits(texts(names[0]), texts(names[1])), 0.1, 0.1, 0, "name"))
    moved = names[0][0].replace("train/", "test/")
    splits = held_out(Splits(texts(names[0][1:]), texts([*names[1], moved, "test/news/x.txt"])), 0.1, 0.1, 0, "name")
    found, _ = without_trained(before, splits, "data")
    assert moved not in found.test.names
    assert "test/news/x.txt" in found.test.names


def test_what_cannot_be_told_is_refused():
    whole = drawn(NAMES)
    with pytest.raises(ValueError, match="none of the 600 samples"):
        without_trained(record_of(whole), drawn([f"x/{name}" for name in NAMES]), "data")
    trained = whole.train.names
    splits = CompleteSplits(texts(trained[:100]), texts(trained[100:150]), texts(trained[150:]), [], [])
    with pytest.raises(ValueError, match="trained on every sample that is in the test split"):
        without_trained(record_of(whole), splits, "data")
    with pytest.raises(ValueError, match="no names"):
        without_trained(record_of(held_out(Splits(tokens(60)), 0.1, 0.1, 0)),
                        held_out(Splits(tokens(50)), 0.1, 0.1, 0), "data")  # fmt: skip
    assert overlap(record_of(whole), splits) == 50
    assert overlap(record_of(whole), held_out(Splits(tokens(60)), 0.1, 0.1, 0)) == 0
