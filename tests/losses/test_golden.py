"""Values and gradients of reference implementations; wrong losses, which these and the equations catch."""

from dataclasses import replace

import pytest
import torch
from equations import assert_equation
from golden_cases import CASES, GOLDEN_OPTIONS, assert_golden, cosine_embedding, of_options, triplets
from loss_cases import (
    batch_of,
)

from repel.losses import base, ratio


@pytest.mark.parametrize("name", GOLDEN_OPTIONS)
def test_golden_values_and_gradients(name):
    assert_golden(name, *of_options(name))


def test_golden_triplets():
    assert_golden("triplet_semihard_m0.4", *triplets())


def test_golden_cosine_embedding():
    assert_golden("cosine_embedding", *cosine_embedding())


def test_every_golden_case_is_used():
    elsewhere = {name for name in CASES if name.startswith("hcl_")}  # test_negatives
    assert set(CASES) == set(GOLDEN_OPTIONS) | elsewhere | {"triplet_semihard_m0.4", "cosine_embedding"}


def mistakes():
    """Name -> what to replace in InfoNCE, with what."""
    link = ratio.InfoNCE.link
    per_anchor, anchor_groups = ratio.InfoNCE.per_anchor, ratio.InfoNCE.anchor_groups

    def half(self, block, positives, keys):
        keep = block.negative & (torch.arange(block.negative.shape[1]) % 2 == 0)
        return per_anchor(self, block._replace(negative=keep), positives, keys)

    def own_view(self, block, positives, keys):
        return per_anchor(self, block, torch.ones_like(positives) * block.scale, keys)

    def positive_among_negatives(self, block, positives, keys):
        return per_anchor(self, block._replace(negative=torch.ones_like(block.negative)), positives, keys)

    def changed_groups(**changes):
        return lambda self, batch: [
            group._replace(**{name: change(getattr(group, name)) for name, change in changes.items()})
            for group in anchor_groups(self, batch)
        ]

    return {
        "temperature ignored": ("anchor_groups", changed_groups(scale=lambda scale: 1.0)),
        "temperature multiplied": ("anchor_groups", changed_groups(scale=lambda scale: 1 / scale)),
        "own view as the positive": ("per_anchor", own_view),
        "half of the negatives dropped": ("per_anchor", half),
        "itself and the positive among the negatives": ("per_anchor", positive_among_negatives),
        "positive outside the denominator": ("link", lambda self, log_z, positive: log_z - positive),
        "missing log": ("link", lambda self, log_z, positive: torch.exp(log_z - positive)),
        "sign": ("link", lambda self, log_z, positive: link(self, positive, log_z)),
        "no gradient through the candidates": (
            "anchor_groups", lambda self, batch: anchor_groups(self, replace(batch, keys=batch.keys.detach())),
        ),
        "sum": ("forward", lambda self, z, *a, **k: self.losses(batch_of(z)).sum()),
    }  # fmt: skip


@pytest.mark.parametrize("mistake", mistakes())
def test_a_wrong_loss_is_caught(mistake, monkeypatch):
    """By the golden values; and by the paper's equation, except for what only a gradient shows."""
    monkeypatch.setattr(ratio.InfoNCE, *mistakes()[mistake])
    with pytest.raises(AssertionError):
        assert_golden("ntxent_t0.5", *of_options("ntxent_t0.5"))
    if mistake != "no gradient through the candidates":
        with pytest.raises(AssertionError):
            assert_equation("ntxent")


def test_embeddings_that_are_not_normalised_are_caught(monkeypatch):
    monkeypatch.setattr(base, "unit", lambda z: z)
    with pytest.raises(AssertionError):
        assert_golden("ntxent_t0.5", *of_options("ntxent_t0.5"))
    with pytest.raises(AssertionError):
        assert_equation("ntxent")
