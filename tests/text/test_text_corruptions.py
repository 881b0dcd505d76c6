"""Typing errors and missing words: what they do to strings, and how accuracy on them is measured."""

import pytest
import torch
from plain_texts import bag_network, plain_texts, sentences, text_data

from repel.base import seeding
from repel.evaluation.knn import knn_top1
from repel.evaluation.protocol import Network, ReportRow, measure
from repel.text.baselines import WordFeatures
from repel.text.corruptions import TextCorruptions
from repel.text.typos import _NEIGHBORS, CORRUPTIONS, SHARES, corrupt_texts

TEXT = " ".join(f"word{chr(97 + i % 26)}ing" for i in range(4000))


def corrupted(text: str, name: str, strength: int, seed: int = 0) -> str:
    return corrupt_texts([text], name, strength, torch.Generator().manual_seed(seed))[0]


@pytest.mark.parametrize("strength", range(1, 6))
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_share_of_words_grows_with_the_strength(name, strength):
    words, found = TEXT.split(), corrupted(TEXT, name, strength).split()
    if name == "drop":
        share = 1 - len(found) / len(words)
    else:
        share = sum(a != b for a, b in zip(words, found, strict=True)) / len(words)
    assert share == pytest.approx(SHARES[strength - 1], abs=0.03)


def test_each_typo_is_one_error():
    checks = {
        "swap": lambda a, b: sorted(a) == sorted(b) and sum(p != q for p, q in zip(a, b, strict=True)) == 2,
        "delete": lambda a, b: any(a[:i] + a[i + 1 :] == b for i in range(len(a))),
        "insert": lambda a, b: any(b[:i] + b[i + 1 :] == a and _beside(b[i - 1], b[i]) for i in range(1, len(b))),
        "keyboard": lambda a, b: (
            [_beside(p, q) for p, q in zip(a, b, strict=True) if p != q] == [True]
        ),
    }  # fmt: skip
    for name, is_one in checks.items():
        changed = [(a, b) for a, b in zip(TEXT.split(), corrupted(TEXT, name, 5).split(), strict=True) if a != b]
        assert all(is_one(a, b) for a, b in changed), name


def _beside(letter: str, other: str) -> bool:
    return other in _NEIGHBORS[letter]


def test_neighbors_on_the_keyboard():
    assert set(_NEIGHBORS["g"]) == set("ftyhvb")
    assert set(_NEIGHBORS["q"]) == set("wa")
    assert set(_NEIGHBORS["p"]) == set("ol")
    assert all(a in _NEIGHBORS[b] for a in _NEIGHBORS for b in _NEIGHBORS[a])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_text_stays_a_text(name):
    """One letter, no letter, capitals, other scripts, nothing at all; what is between words stays."""
    for text in ("a", "I", "7", "!", "aa", "Ü", "我喜欢猫", "שלום", "👩🏽‍🚀", "  x  "):
        for seed in range(8):
            assert corrupted(text, name, 5, seed).strip()
    assert corrupted("", name, 5) == ""
    found = [corrupted("ABCDEF", name, 5, seed) for seed in range(30)]
    assert all(text.isupper() for text in found)
    assert name == "drop" or {"ABCDEF"} < set(found)
    assert name == "drop" or corrupted("one\ttwo \n three", name, 1, 0).split("\t")[1].count("\n") == 1


def test_draws_depend_on_the_generator_alone():
    texts = sentences(20, 0).texts
    once, again, other = (
        corrupt_texts(texts, "swap", 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )  # fmt: skip
    assert once == again
    assert once != other
    first = corrupt_texts(texts[:5], "swap", 3, torch.Generator().manual_seed(1))
    assert first == once[:5]


def evaluator(**options) -> TextCorruptions:
    return TextCorruptions(**{"k": 5, "temperature": 0.1, "texts": 30, "seed": 0} | options)


def measured(network, **options) -> dict:
    row = ReportRow("last", "x", "h", lambda: network, 1, headline=True)
    return {m.metric: m for m in measure([row], {"typos": evaluator(**options)}, text_data(), None, 1)}


def test_scores_are_knn_on_the_corrupted_strings():
    found, network, splits = measured(bag_network(), texts=40), bag_network(), text_data().splits
    labels = torch.cat([splits.train.labels, splits.val.labels])
    x = network.encode(plain_texts([*splits.train.texts, *splits.val.texts]))[0]
    for number, name in enumerate(CORRUPTIONS):
        values = []
        for strength in range(1, 6):
            draws = seeding.generator(0, seeding.CORRUPTION, number, strength)
            texts = corrupt_texts(splits.test.texts, name, strength, draws)
            values.append(knn_top1(x, labels, network.encode(plain_texts(texts))[0], splits.test.labels, 5, 0.1))
        score = found[f"test/corrupted_{name}_top1"].score
        assert score.settings["by_strength"] == values
        assert score.value == pytest.approx(sum(values) / 5)
    clean = knn_top1(x, labels, network.encode(splits.test)[0], splits.test.labels, 5, 0.1)
    assert found["test/uncorrupted_top1"].score.value == clean > found["test/corrupted_top1"].score.value
    assert found["test/corrupted_top1"].record()["scored_on"] == 40


def test_at_most_so_many_texts_and_sparse_features_too():
    data = text_data()
    network = Network(WordFeatures(data.splits.train).tfidf, None, data.normalize, torch.device("cpu"))
    found = measured(network, texts=12)
    assert {m.scored_on for m in found.values()} == {12}
    assert set(found) == {"test/uncorrupted_top1", "test/corrupted_top1"} | {
        f"test/corrupted_{name}_top1" for name in CORRUPTIONS
    }


def test_a_figure_of_its_measurements():
    plot = evaluator().plot(list(measured(bag_network()).values()))
    assert plot.caption == "Corrupted test texts"
    assert [axes.get_title() for axes in plot.picture.axes] == list(CORRUPTIONS)


@pytest.mark.parametrize("wrong", [{"texts": 0}, {"k": 0}, {"temperature": 0.0}])
def test_wrong_options_are_one_line(wrong):
    with pytest.raises(ValueError, match=r"evaluators\.text_corruptions needs"):
        evaluator(**wrong)
