"""Item biases as angles, and features that do not hold the answer, against dense matrices."""

import math

import pytest
import torch
import torch.nn.functional as F

from repel.base.dropout import FIRST_NEGATIVE, DrawCounters
from repel.data.samples import give_info
from repel.interactions.encoders import Table
from repel.interactions.lightgcn import LightGCN
from repel.interactions.pairs import InteractionInfo

USERS, ITEMS = 4, 5
PAIRS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 2], [2, 2], [2, 3], [3, 4], [3, 0]], dtype=torch.int32)
INFO = InteractionInfo(len(PAIRS), users=USERS, items=ITEMS, pairs=PAIRS)
BATCH = torch.tensor([[0, USERS + 1], [1, USERS], [0, USERS]])  # user 0 twice, item 0 twice


def made(encoder):
    give_info(encoder, INFO)
    return encoder.double()


def as_input(nodes):
    return torch.stack([nodes, torch.zeros_like(nodes)], 1)


def dense(without=None):
    """A, normalized by all degrees, without one edge."""
    a = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    for user, item in PAIRS.tolist():
        a[user, USERS + item] = a[USERS + item, user] = 1
    scale = a.sum(1).rsqrt()
    a = scale[:, None] * a * scale
    if without is not None:
        user, item = without
        a[user, item] = a[item, user] = 0
    return a


def features(a, weight, layers, first):
    every = [weight]
    for _ in range(layers):
        every.append(a @ every[-1])
    return torch.stack(every[0 if first else 1 :]).mean(0)


@pytest.mark.parametrize("encoder", [Table(6, item_bias=True), LightGCN(6, layers=2, item_bias=True)])
def test_a_bias_is_added_to_every_cosine(encoder):
    encoder = made(encoder)
    encoder.bias.angles.data.uniform_(-1, 1)
    bare = made(Table(4) if isinstance(encoder, Table) else LightGCN(4, layers=2))
    bare.vectors.weight.data = encoder.vectors.weight.data
    nodes = as_input(torch.arange(USERS + ITEMS))
    h, v = encoder(nodes), F.normalize(bare(nodes), dim=1)
    assert torch.allclose(h.norm(dim=1), torch.full((len(h),), math.sqrt(2), dtype=torch.float64))
    h = F.normalize(h, dim=1)
    expected = (v[:USERS] @ v[USERS:].T + encoder.bias.angles.sin()) / 2
    torch.testing.assert_close(h[:USERS] @ h[USERS:].T, expected)
    (h[:USERS] @ h[USERS:].T)[1, 2].backward()
    expected = torch.zeros(ITEMS, dtype=torch.float64).index_fill(0, torch.tensor(2), 1) * encoder.bias.angles.cos() / 2
    torch.testing.assert_close(encoder.bias.angles.grad, expected.detach())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("counted", [True, False])
def test_a_pair_is_left_out_of_its_own_features_alone(layers, first, counted):
    encoder = made(LightGCN(3, layers, first, leave_pair_out=True))
    weight = encoder.vectors.weight
    if counted:
        encoder.on_pass(DrawCounters(key=1, samples=len(BATCH)), part=0)
        h = encoder(as_input(BATCH.T.flatten()))
    else:
        h = encoder(tuple(as_input(side) for side in BATCH.T))
    expected = []
    for side in range(2):
        expected += [features(dense(pair), weight, layers, first)[pair[side]] for pair in BATCH.tolist()]
    torch.testing.assert_close(h, torch.stack(expected))
    draws = torch.randn_like(h)
    (gradient,) = torch.autograd.grad((h * draws).sum(), weight)
    (wanted,) = torch.autograd.grad((torch.stack(expected) * draws).sum(), weight)
    torch.testing.assert_close(gradient, wanted)


def test_other_passes_and_evaluation_see_the_whole_graph():
    encoder = made(LightGCN(3, 2, leave_pair_out=True))
    nodes = BATCH.T.flatten()
    whole = features(dense(), encoder.vectors.weight, 2, True)[nodes]
    encoder.on_pass(DrawCounters(key=1, samples=3, view=FIRST_NEGATIVE), part=0)
    torch.testing.assert_close(encoder(as_input(nodes)), whole)
    torch.testing.assert_close(encoder.eval()(as_input(nodes)), whole)


@pytest.mark.parametrize("augment", ["edges", "noise", "layers"])
def test_augmented_graphs_stay_what_they_are(augment):
    plain, leaving = (made(LightGCN(3, 2, augment=augment, leave_pair_out=leave)) for leave in (False, True))
    leaving.vectors.weight.data = plain.vectors.weight.data
    x = torch.stack([BATCH.T.flatten().repeat(2), torch.ones(12, dtype=torch.int64)], 1)
    for encoder in (plain, leaving):
        encoder.on_pass(DrawCounters(key=1, samples=3), part=0)
    torch.testing.assert_close(leaving(x)[6:], plain(x)[6:])


def test_pairs_must_be_known():
    with pytest.raises(ValueError, match="leave_pair_out must know"):
        made(LightGCN(3, leave_pair_out=True))(as_input(BATCH.T.flatten()))


def test_too_few_dimensions_for_a_bias():
    with pytest.raises(ValueError, match="width must be at least 3"):
        Table(2, item_bias=True)
