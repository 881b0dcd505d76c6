"""Explicit negatives of the anchor's own sample, weighed by themselves; weights without a norm."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from loss_cases import assert_equal, batch, make, value_and_gradient

from repel.data.samples import DataInfo, give_info
from repel.negatives import Chain, OwnNegatives, Tilt, Uniform
from repel.negatives.strategy import own_explicit

T, N, M = 0.5, 6, 2
EXPLICIT = batch(M, seed=2).detach()


def one_sided(strategy, row_chunk=None):
    """View 0 against view 1 and two explicit negatives a sample."""
    loss = make("infonce", strategy, symmetric=False, temperature=T, row_chunk=row_chunk)
    return value_and_gradient(loss, batch(), negatives=EXPLICIT)


def expected(weight):
    """The equation, anchor by anchor: weight(cosine, whether it is an explicit negative of the anchor's own)."""

    def loss(z):
        a, b, c = F.normalize(z[0], dim=-1), F.normalize(z[1], dim=-1), F.normalize(EXPLICIT, dim=-1)
        terms = []
        for i in range(N):
            positive = (a[i] @ b[i] / T).exp()
            others = [(a[i] @ b[j], False) for j in range(N) if j != i]
            others += [(a[i] @ c[m, j], i == j) for m in range(M) for j in range(N)]
            terms.append(-torch.log(positive / (positive + sum((s / T + weight(s, own)).exp() for s, own in others))))
        return torch.stack(terms).mean()

    return value_and_gradient(loss, batch())


CASES = {
    "own_negatives": (OwnNegatives(3.0), lambda s, own: math.log(3.0) * own),
    "own_negatives of 1": (OwnNegatives(1.0), lambda s, own: 0.0),
    "tilt, none": (Tilt(1.5, "none", True), lambda s, own: 1.5 / T * s.detach()),
    "tilt, none, with gradient": (Tilt(1.5, "none", False), lambda s, own: 1.5 / T * s),
    "tilt, own": (Tilt(1.5, "none", True, "own"), lambda s, own: 1.5 / T * s.detach() * own),
    "tilt, others": (Tilt(1.5, "none", True, "others"), lambda s, own: 1.5 / T * s.detach() * (not own)),
    "tilt of 0": (Tilt(0.0, "none", True), lambda s, own: 0.0),
    "chain": (Chain([Uniform(), OwnNegatives(2.0), Tilt(1.0, "none", True, "own")]),
              lambda s, own: (math.log(2.0) + s.detach() / T) * own),
}  # fmt: skip


@pytest.mark.parametrize("row_chunk", [None, 4])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_equation(name, row_chunk):
    strategy, weight = CASES[name]
    assert_equal(one_sided(strategy, row_chunk), expected(weight))


def test_without_a_norm_a_row_of_equal_logits_weighs_more():
    """Which InfoNCE feels, and the other norms take out."""
    assert one_sided(Tilt(1.0, "none", True))[0] > one_sided(Uniform())[0]


@pytest.mark.parametrize("strategy", [OwnNegatives(2.0), Tilt(1.0, "none", True, "own")])
def test_data_without_explicit_negatives_is_refused(strategy):
    chain = Chain([Uniform(), strategy])
    with pytest.raises(ValueError, match=r"negatives.*explicit negatives"):
        give_info(chain, DataInfo(100))
    give_info(chain, DataInfo(100, negatives=1))
    give_info(Tilt(), SimpleNamespace(negatives=0))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: OwnNegatives(0.0), "weight"),
        (lambda: OwnNegatives(math.inf), "weight"),
        (lambda: Tilt(1.0, "none", scope="explicit"), "scope"),
        (lambda: Tilt(1.0, "max", scope="own"), "norm"),
    ],
)
def test_impossible_options_are_named(make, word):
    with pytest.raises(ValueError, match=rf"negatives\.{word}"):
        make()


def test_local_anchors_know_their_own():
    loss = make("infonce", OwnNegatives(3.0), temperature=T)
    whole = value_and_gradient(loss, batch(), negatives=EXPLICIT)
    parts = [value_and_gradient(loss, batch(), negatives=EXPLICIT, local=slice(i, i + 2)) for i in (0, 2, 4)]
    assert_equal(whole, [sum(p) / 3 for p in zip(*parts, strict=True)])


@pytest.mark.parametrize("row_chunk", [None, 5])
@pytest.mark.parametrize("candidates", ["all", "cross", "queue"])
def test_a_block_says_which_entities_positives_show_and_whose_explicit_negatives_are(candidates, row_chunk):
    """With a queue, crops and an entity a view; anchors come view by view, then crops."""
    seen = []

    class Spy(Uniform):
        def weights(self, block):
            seen.append((own_explicit(block), block.row_ids, block.positive_ids))

    loss = make("infonce", Spy(), queue=4, candidates=candidates, row_chunk=row_chunk)
    loss.queue.push(torch.randn(4, 5, dtype=torch.float64), None, None)
    ids = torch.arange(2 * N).view(2, N)
    with torch.no_grad():
        loss(batch(), ids=ids, negatives=EXPLICIT, crops=batch(1).detach(), local=slice(2, 5))
    own, shown = torch.cat([s[0][:, -M * N :] for s in seen]), torch.cat([s[1] for s in seen])
    assert not any(s[0][:, : -M * N].any() for s in seen)
    sample = torch.arange(2, 5).repeat(3)
    assert torch.equal(own, (sample[:, None] == torch.arange(N)).repeat(1, M))
    assert shown.tolist() == [2, 3, 4, 8, 9, 10, 2, 3, 4]
    positives = [ids for s in seen for ids in s[2].tolist()]
    assert positives == [[8], [9], [10], [2], [3], [4], [2, 8], [3, 9], [4, 10]]
