"""Debiasing: Chuang et al.'s estimator, its floor, and what it logs."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from golden_cases import with_negatives
from loss_cases import batch, make

from repel.negatives import soft
from repel.negatives.strategy import LogitBlock


@pytest.mark.parametrize("crops", [0, 2])
def test_with_several_positives_their_exponentials_are_averaged(crops):
    """Equations 7 and 8 anchor by anchor, M positives each: three views, and small crops with three positives."""
    t, tau, views = 0.5, 0.1, batch(3).detach()
    small = batch(2, seed=4).detach() if crops else None
    keys, terms = F.normalize(views, dim=-1), []
    for a, anchors in enumerate([*keys, *([] if small is None else F.normalize(small, dim=-1))]):
        for i, anchor in enumerate(anchors):
            positives = torch.stack([keys[v, i] @ anchor / t for v in range(3) if v != a]).exp()
            negatives = torch.stack([keys[v, j] @ anchor / t for v in range(3) for j in range(6) if j != i]).exp()
            g = ((negatives.mean() - tau * positives.mean()) / (1 - tau)).clamp(min=math.exp(-1 / t))
            terms.append(-torch.log(positives / (positives + len(negatives) * g)).mean())
    value = make("ntxent", soft.Debiased(tau), temperature=t)(views, crops=small)
    torch.testing.assert_close(value, torch.stack(terms).mean())


def test_debiased_at_its_floor_moves_no_negative():
    rows = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    positive = torch.full((4,), 20.0, dtype=torch.float64)
    log_z = soft.Debiased(0.1).correct(
        rows.logsumexp(1), LogitBlock(rows, positive, torch.ones_like(rows).bool(), 20.0)
    )
    torch.testing.assert_close(log_z, torch.full((4,), math.log(9) - 20.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_z.sum(), rows)
    assert torch.equal(gradient, torch.zeros_like(rows))


def test_debiased_logs_how_often_it_is_at_its_floor():
    loss = make("ntxent", soft.Debiased(0.1), temperature=0.5)
    assert loss.statistics() == {}
    near = batch().detach()[:1].expand(2, -1, -1)
    loss(near)
    share = loss.statistics()["negatives/clamped_fraction"].item()
    assert 0 <= share < 1
    cold = make("ntxent", soft.Debiased(0.1), temperature=0.05)
    cold(near)
    assert cold.statistics()["negatives/clamped_fraction"].item() == 1
    cold.eval()
    cold(near)
    assert cold.statistics() == {}


def test_debiasing_goes_down_with_tau_where_negatives_are_further_than_the_positive():
    """d est / d tau = (Z - n e^{l_p}) / (1 - tau)^2."""
    z = batch().detach()[:1].expand(2, -1, -1)  # positives at a cosine of 1
    values = [with_negatives(soft.Debiased(tau), temperature=2.0, z=z)[0] for tau in (0.0, 0.02, 0.05, 0.1)]
    assert all(a > b for a, b in itertools.pairwise(values))
