"""Items by their labels: how they are split, and that nothing is fitted to those that are tested."""

import hashlib

import pytest
import torch
from conftest import config
from hydra.utils import instantiate

from repel.engine.configs import to_container
from repel.evaluation import knn_top1
from repel.evaluation.protocol import Network, Part
from repel.interactions.item_features import ItemFeatures, split_items
from repel.interactions.pairs import EntityStore, Interactions
from repel.interactions.two_tower import TwoTower

USERS, ITEMS, CLASSES = 3, 120, 4
LABELS = torch.where(torch.arange(ITEMS) % 6 == 5, -1, torch.arange(ITEMS) % CLASSES)
STORE = EntityStore(USERS, ITEMS, [], [f"item {i}" for i in range(ITEMS)], LABELS, list("abcd"))


def part(store=STORE) -> Part:
    return Part(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), Interactions(torch.tensor([[0, 1]]), store=store))


class Encoded:
    """Features around the label's own, and which items were encoded."""

    def __init__(self):
        noise = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(0))
        self.x, self.asked = torch.eye(8)[LABELS.clamp(min=0)] + 0.5 * noise, []

    def network(self) -> Network:
        def encode(samples):
            items = samples.x[:, 0] - USERS
            self.asked.append(items)
            return self.x[items], torch.arange(len(items))

        return Network(encode, torch.nn.Identity(), lambda x: x, torch.device("cpu"))


def evaluator() -> ItemFeatures:
    return instantiate(to_container(config("evaluators=[items]"))["evaluators"]["items"])


def test_a_tenth_of_every_class_is_tested_and_a_tenth_chosen_by():
    fit_on, choose_on, test_on = split_items(STORE)
    assert sorted(torch.cat([fit_on, choose_on, test_on]).tolist()) == (LABELS >= 0).nonzero().flatten().tolist()
    sizes = torch.bincount(LABELS[LABELS >= 0])
    for places, share in ((fit_on, 0.8), (choose_on, 0.1), (test_on, 0.1)):
        assert (torch.bincount(LABELS[places]) - share * sizes).abs().max() <= 1
    # by the names alone: the same items wherever they stand
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(1))
    moved = EntityStore(USERS, ITEMS, [], [f"item {i}" for i in order.tolist()], LABELS[order], list("abcd"))
    for places, others in zip((fit_on, choose_on, test_on), split_items(moved), strict=True):
        assert places.tolist() == sorted(order[others].tolist())
    # in the order of a hash, not of the names
    first = [i for i in range(ITEMS) if LABELS[i] == 0]
    by_hash = sorted(first, key=lambda i: int.from_bytes(
        hashlib.blake2b(f"item {i}".encode(), digest_size=8).digest(), "little", signed=True))  # fmt: skip
    assert [i for i in by_hash if i in test_on.tolist()] == by_hash[5::10]


def test_a_class_of_a_few_items_is_fitted_on_alone():
    labels = torch.tensor([0] * 12 + [1] * 5 + [2] * 6)
    store = EntityStore(USERS, len(labels), [], [], labels, list("abc"))
    fit_on, choose_on, test_on = (labels[places].tolist() for places in split_items(store))
    assert (sorted(test_on), choose_on) == ([0, 2], [0])
    assert set(fit_on) == {0, 1, 2}


def test_it_is_knn_linear_and_geometry_of_the_items():
    one = Encoded()
    fitted = evaluator().fit(part(), part(), one.network())
    fit_on, choose_on, test_on = split_items(STORE)
    assert not set(torch.cat(one.asked).tolist()) & set(test_on.tolist())  # which are encoded when all is chosen
    scores = {s.key: s for s in fitted.score(part())}
    assert {"items_knn_top1", "items_linear_top1", "items_effective_rank"} <= set(scores)
    assert [(s.key, s.split) for s in fitted.chosen] == [("items_linear_top1", "val")]
    bank = torch.cat([fit_on, choose_on])
    k, temperature = (scores["items_knn_top1"].settings[key] for key in ("k", "temperature"))
    expected = knn_top1(one.x[bank], LABELS[bank], one.x[test_on], LABELS[test_on], k, temperature)
    assert scores["items_knn_top1"].value == pytest.approx(expected)
    assert expected > 0.5
    settings = scores["items_linear_top1"].settings
    assert (settings["labels"], settings["samples"]) == (len(bank), len(test_on))


def test_without_labels_a_line_says_so_once(capsys):
    bare, made, network = EntityStore(USERS, ITEMS), evaluator(), Encoded().network()
    for _ in range(2):
        fitted = made.fit(part(bare), part(bare), network)
        assert fitted.score(part(bare)) == []
    assert capsys.readouterr().out == "note     evaluators=items is left out: no label is of 10 items\n"


def test_labels_that_the_encoder_sees_are_not_measured(capsys):
    network = Encoded().network()._replace(encoder=TwoTower(width=2, item_features="labels"))
    assert evaluator().fit(part(), part(), network).score(part()) == []
    assert "encoder.item_features=labels shows the encoder these labels" in capsys.readouterr().out
