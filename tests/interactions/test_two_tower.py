"""encoder=two_tower: each side by its own tower, from own vectors and features; views=towers."""

import re
from dataclasses import replace

import pytest
import tiny_graphs
import torch
from tiny_graphs import ITEMS, NODES, USERS
from torch import Tensor, nn

from repel.data.samples import DataInfo, give_info
from repel.interactions.encoders import Table
from repel.interactions.lightgcn import LightGCN
from repel.interactions.pairs import EntityStore, Interactions, PairBatch
from repel.interactions.two_tower import Tower, TwoTower
from repel.interactions.views import PairViews, TowerViews

LABELS = torch.tensor([0, 2, -1, 1, 1, 0, 2, 2])
DRAWS = torch.Generator().manual_seed(0)
USER_FEATURES, ITEM_FEATURES = torch.randn(USERS, 3, generator=DRAWS), torch.rand(ITEMS, 2, generator=DRAWS)


def info(**known) -> DataInfo:
    store = EntityStore(USERS, ITEMS, item_labels=LABELS, user_features=USER_FEATURES, item_features=ITEM_FEATURES)
    return replace(Interactions(tiny_graphs.pairs(), store=store).info(), **known)


def told(**options) -> TwoTower:
    torch.manual_seed(0)
    encoder = TwoTower(width=5, **options)
    give_info(encoder, info())
    return encoder.double()


def by_hand(tower: Tower, number: int) -> Tensor:
    """The features of one entity."""
    x = torch.zeros(5, dtype=torch.float64)
    if tower.own is not None:
        x = x + tower.own[number]
    rows = []
    if tower.known != "none":
        one_hot = [float(LABELS[number] == kind) for kind in range(3)] if tower.side == "item" else []
        given = (USER_FEATURES if tower.side == "user" else ITEM_FEATURES)[number].tolist()
        rows = {"features": given, "labels": one_hot, "both": given + one_hot}[tower.known]
    for value, row in zip(rows, tower.projection if rows else [], strict=True):
        x = x + value * row
    linear = [part for part in tower.mlp if isinstance(part, nn.Linear)]
    for part in linear[:-1]:
        x = (part.weight @ x + part.bias).relu()
    return linear[-1].weight @ x + linear[-1].bias


OPTIONS = {
    "own vectors": {},
    "linear": {"hidden": []},
    "features": {"own_vectors": [], "user_features": "features", "item_features": "features"},
    "all": {"hidden": [4, 3], "user_features": "features", "item_features": "both"},
    "labels": {"own_vectors": ["user"], "item_features": "labels"},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_each_side_is_its_towers_in_value_and_gradient(case):
    encoder = told(**OPTIONS[case])
    nodes = [7, 0, USERS - 1, USERS, NODES - 1, 0]
    sides = [(encoder.user, node) if node < USERS else (encoder.item, node - USERS) for node in nodes]
    theirs = torch.stack([by_hand(*side) for side in sides])
    ours = encoder(torch.tensor([[node, 0] for node in nodes]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = list(encoder.parameters())
    for mine, own in zip(*(torch.autograd.grad((h**3).sum(), weights) for h in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, own, rtol=0, atol=1e-12)
    users, items = torch.tensor([[3, 0], [0, 0]]), torch.tensor([[NODES - 1, 0], [USERS, 0]])
    torch.testing.assert_close(encoder((users, items)), encoder(torch.cat([users, items])), rtol=0, atol=1e-12)


def test_a_checkpoint_is_enough():
    encoder, other = told(**OPTIONS["all"]), TwoTower(5, **OPTIONS["all"]).double()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(tiny_graphs.nodes(0)), encoder(tiny_graphs.nodes(0)))


def test_a_map_of_features_begins_as_long_as_own_vectors():
    encoder = TwoTower(64, own_vectors=[], user_features="features", item_features="both")
    give_info(encoder, info())
    for tower in (encoder.user, encoder.item):
        length = (tower.features @ tower.projection).square().sum(1).mean().sqrt()
        assert 0.7 < length < 1.3


BATCH = PairBatch(torch.tensor([[0, USERS + 2], [3, USERS + 2], [3, NODES - 1]]), USERS, ITEMS)


@pytest.mark.parametrize("encoder", [TwoTower, Table, LightGCN])
def test_towers_views_show_what_pair_views_show(encoder):
    torch.manual_seed(0)
    told = encoder(width=5)
    give_info(told, info())
    towers, pairs = (views.apply(BATCH, views.draw(3, torch.Generator())) for views in (TowerViews(), PairViews()))
    torch.testing.assert_close(told(towers.views), told(pairs.views.flatten(0, 1)))
    assert torch.equal(towers.ids, pairs.ids)
    assert all(torch.equal(side, view) for side, view in zip(towers.views, pairs.views, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "encoder.width and encoder.hidden must be at least 1, got 0 and [128]"),
        ({"hidden": [4, 0]}, "encoder.width and encoder.hidden must be at least 1, got 64 and [4, 0]"),
        ({"own_vectors": ["users"]}, "encoder.own_vectors must be some of user and item, got ['users']"),
        ({"user_features": "labels"}, "encoder.user_features must be one of none, features, got 'labels'"),
        ({"own_vectors": ["user"]}, "the tower of items sees nothing: set encoder.item_features or own_vectors"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TwoTower(**options)


@pytest.mark.parametrize("kind", ["features", "labels", "both"])
def test_features_that_the_data_does_not_bring(kind):
    without = {"features": "item_features", "labels": "item_labels", "both": "item_features"}[kind]
    with pytest.raises(
        ValueError, match=f"encoder.item_features={kind}: the data does not bring them; encoder.item_feat"
    ):
        give_info(TwoTower(item_features=kind), info(**{without: None}))
