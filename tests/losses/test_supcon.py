"""Supervised contrastive losses: their positives, and how many pairs there are."""

import itertools
import math

import pytest
import torch
from loss_cases import (
    IDS,
    assert_equal,
    batch,
    batch_of,
    make,
    remember,
    value_and_gradient,
)


def test_supcon_without_shared_labels_is_ntxent():
    for positives in ("out", "in", "pairwise"):
        supcon = make("supcon", positives=positives, temperature=0.2)
        assert_equal(
            value_and_gradient(supcon, batch(), labels=torch.arange(6)), value_and_gradient(make("ntxent"), batch())
        )
        unknown = value_and_gradient(supcon, batch(), labels=torch.full((6,), -1))
        assert_equal(unknown, value_and_gradient(make("ntxent"), batch()))


def test_supcon_out_is_at_least_in():
    """Jensen; `in` here is without its constant log |P|, so add it for classes of equal size."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    out, within = (make("supcon", positives=p)(batch(), labels=labels) for p in ("out", "in"))
    assert out > within + math.log(3)


def test_supcon_of_one_class_has_no_negatives_and_stays_finite():
    for positives in ("out", "in", "pairwise"):
        value, gradient = value_and_gradient(
            make("supcon", positives=positives), batch(), labels=torch.zeros(6, dtype=torch.int64)
        )
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_supcon_counts_pairs_with_the_queue_and_unknown_labels():
    loss, labels = remember(make("supcon", positives="pairwise", queue=8)), torch.tensor([0, 0, 1, -1, 5, 1])
    pairs = 0
    for (v, i), (u, j) in itertools.product(itertools.product(range(2), range(6)), repeat=2):
        same_class = labels[i] == labels[j] and labels[i] >= 0 and i != j
        pairs += bool((i == j and v != u) or same_class)
    for i, (ident, label) in itertools.product(range(6), zip(loss.queue.ids[:7], loss.queue.labels[:7], strict=True)):
        pairs += 2 * bool(labels[i] == label and labels[i] >= 0 and ident != IDS[i])
    assert loss.pairs(batch_of(batch(), labels, IDS)) == pairs


def test_supcon_says_that_it_needs_labels():
    with pytest.raises(ValueError, match="labels"):
        make("supcon")(batch())
