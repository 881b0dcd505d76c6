"""Losses against their papers' equations, closed forms and limits."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from equations import EQUATIONS, assert_equation, by_anchor, cosines
from loss_cases import (
    DIM,
    IDS,
    assert_equal,
    batch,
    batch_of,
    make,
    remember,
    value_and_gradient,
)

from repel.losses import pairs
from repel.losses.queue import Queue
from repel.losses.soft_targets import sinkhorn


@pytest.mark.parametrize("name", EQUATIONS)
def test_equals_the_papers_equation(name):
    assert_equation(name)


def test_siglip_is_the_papers_sum_over_all_pairs():
    """Zhai et al. 2023, algorithm 1: the mean over one view of the sum over pairs with labels 1 and -1."""
    z = batch()
    a, b = F.normalize(z, dim=-1)
    y = 2 * torch.eye(6, dtype=torch.float64) - 1
    expected = -F.logsigmoid(y * (a @ b.T / 0.1 - 10)).sum() / 6
    torch.testing.assert_close(make("siglip")(z), expected, rtol=1e-10, atol=0)


def test_soft_triplet_is_the_soft_margin_of_batch_hard():
    """Hermans et al. 2017, eq. 5 with softplus, t = 1 and no margin; and the hinge as t goes to 0."""
    expected = by_anchor(batch(), lambda s, p, n, view, v: F.softplus(s[n].max() - s[p]))
    loss = make("triplet", "hardest", link="soft", margin=0.0, temperature=1.0)
    torch.testing.assert_close(loss(batch()), expected, rtol=1e-10, atol=0)
    cold = make("triplet", "hardest", link="soft", temperature=1e-4)(batch())
    torch.testing.assert_close(cold, make("triplet", "hardest")(batch()), rtol=0, atol=1e-4)


def test_the_founding_margin_loss():
    """Its code's 0.5 c^2 - m y c, summed over a positive and its single most similar negative, plus the constant."""
    m = 0.7

    def term(s, p, n, view, v):
        return (0.5 * s[p] ** 2 - m * s[p]) + 0.5 * s[n].max() ** 2 + 0.5 * m**2

    loss = make("cosine_regression", "hardest", margin=m)
    torch.testing.assert_close(loss(batch()), by_anchor(batch(), term), rtol=1e-10, atol=0)


def relational(z, target, t, t_m, lam):
    """SCE's equations for two views, anchor by anchor; lam None is ReSSL's."""
    s, sample, view = cosines(z, target)
    k = F.normalize(target, dim=-1).flatten(0, 1)
    terms = []
    for i in range(len(s)):
        p = next(j for j in range(len(s)) if sample[j] == sample[i] and view[j] != view[i])
        n = [j for j in range(len(s)) if sample[j] != sample[i] and view[j] != view[i]]
        y = (k[p] @ k[n].T / t_m).softmax(0)
        if lam is None:
            terms.append(-(y * (s[i, n] / t).log_softmax(0)).sum())
            continue
        log_p = (s[i, [p, *n]] / t).log_softmax(0)
        terms.append(-lam * log_p[0] - (1 - lam) * (y * log_p[1:]).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("name", "t_m", "lam"), [("sce", 0.05, 0.5), ("ressl", 0.04, None)])
def test_relational_losses_equal_their_equations(name, t_m, lam):
    z, target = batch(), batch(seed=1).detach()
    ours = value_and_gradient(make(name), z, target=target)
    theirs = value_and_gradient(lambda z: relational(z, target, 0.1, t_m, lam), z)
    assert_equal(ours, theirs)


def test_sce_with_everything_on_the_positive_is_infonce():
    assert_equal(
        value_and_gradient(make("sce", coefficient=1.0), batch(), target=batch().detach()),
        value_and_gradient(make("infonce", temperature=0.1), batch(), target=batch().detach()),
    )


def test_a_relation_that_is_met_has_no_gradient():
    z = batch()
    _, gradient = value_and_gradient(make("ressl", target_temperature=0.1), z.detach()[:1].expand(2, -1, -1))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


def test_nnclr_equals_its_equation():
    """Dwibedi et al. 2021, eq. 3, with the neighbour looked up in the queue and the batch's other samples."""
    z, target = batch(), batch(seed=1).detach()
    loss = remember(make("nnclr", queue=8))

    def equation(z):
        k = F.normalize(target, dim=-1)
        q = F.normalize(z, dim=-1)
        terms = []
        for v, i in itertools.product(range(2), range(6)):
            support = [k[u, j] for u in range(2) for j in range(6) if j != i]
            support += [e for e, ident in zip(loss.queue.z[:7], loss.queue.ids, strict=False) if ident != IDS[i]]
            support = torch.stack(support)
            neighbour = support[(support @ k[v, i]).argmax()]
            terms.append(-(neighbour @ q[1 - v].T / 0.1).log_softmax(0)[i])
        return torch.stack(terms).mean()

    assert_equal(value_and_gradient(loss, z, ids=IDS, target=target), value_and_gradient(equation, z))


def test_swav_equals_its_equation():
    loss, z = make("swav", prototypes=4), batch()

    def equation(z):
        c, t = F.normalize(loss.prototypes, dim=-1), 0.1
        codes = []
        for view in F.normalize(z.detach(), dim=-1):  # Sinkhorn-Knopp, as in the paper's listing
            q = torch.exp(view @ c.detach().T / 0.05).T
            q /= q.sum()
            for _ in range(3):
                q /= q.sum(1, keepdim=True) * 4
                q /= q.sum(0, keepdim=True) * 6
            codes.append((q * 6).T)
        p = (F.normalize(z, dim=-1) @ c.T / t).log_softmax(-1)
        return -0.5 * ((codes[0] * p[1]).sum(1).mean() + (codes[1] * p[0]).sum(1).mean())

    assert_equal(value_and_gradient(loss, z), value_and_gradient(equation, z))
    assert loss.prototypes.grad.abs().sum() > 0


def test_sinkhorn_balances():
    codes = sinkhorn(torch.randn(12, 4, dtype=torch.float64), 0.5, 200)
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0, dtype=torch.float64))
    assert torch.isfinite(sinkhorn(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), 0.005, 3)).all()


def test_moments():
    """Closed forms: equal embeddings, and orthonormal ones."""
    same = torch.ones(2, 8, 5, dtype=torch.float64)
    assert make("barlow")(same).item() == pytest.approx(5.0)
    assert make("vicreg")(same).item() == pytest.approx(2 * 25 * (1 - 0.01))
    hadamard = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64)
    white = hadamard[:, 1:].repeat(2, 1).expand(2, -1, -1)
    assert make("barlow")(white).item() == pytest.approx(0, abs=1e-9)
    assert make("vicreg")(white).item() == pytest.approx(0, abs=1e-9)


def test_decoupled_weighted_weighs_by_one_on_average():
    """As sigma grows, weights tend to 1; for any sigma they move gradient, not its sum over positives of a view."""
    assert_equal(
        value_and_gradient(make("decoupled_weighted", sigma=1e8), batch()),
        value_and_gradient(make("decoupled"), batch()), rtol=1e-6, atol=1e-8,
    )  # fmt: skip


def test_closed_forms():
    n, t = 5, 0.5
    collapsed = torch.ones(2, n, 8, dtype=torch.float64)
    expected = {
        "ntxent": math.log(2 * n - 1),
        "infonce": math.log(n),
        "decoupled": math.log(2 * n - 2),
        "dhel": 2 * math.log(n - 1) + 1 / t,
        "supcon": math.log(2 * n - 1),
        "siglip": F.softplus(torch.tensor(8.0)).item() + (n - 1) * F.softplus(torch.tensor(-8.0)).item(),
    }
    for name, value in expected.items():
        made = make(name, temperature=t)
        assert made(collapsed, labels=torch.arange(n)).item() == pytest.approx(value, rel=1e-6), name
    assert make("align_uniform")(collapsed).item() == pytest.approx(0, abs=1e-12)
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n  # cosines of -1 / (n - 1) between samples
    optimum = math.log(1 + (2 * n - 2) * math.exp(-(1 + 1 / (n - 1)) / t))
    assert make("ntxent", temperature=t)(simplex.expand(2, n, n)).item() == pytest.approx(optimum, rel=1e-12)


def test_uniformity_of_uniform_embeddings():
    """-4 + 8 / D (Wang, Isola 2020): positives equal, so that alignment is 0."""
    z = torch.randn(1, 2048, 64, dtype=torch.float64).expand(2, -1, -1)
    assert make("align_uniform")(z).item() == pytest.approx(-4 + 8 / 64, abs=0.01)


def test_ntxent_is_the_softplus_of_decoupled():
    """Value by anchor, and gradient by the factor 1 - p (Yeh et al. 2022, eq. 5)."""
    rows = {name: make(name).losses(batch_of(batch())) for name in ("ntxent", "decoupled")}
    torch.testing.assert_close(rows["ntxent"], F.softplus(rows["decoupled"]))


def test_cold_limit_is_the_hinge_of_the_hardest_negative():
    z, t = batch(), 1e-3
    hinge = by_anchor(z, lambda s, p, n, view, v: (s[n].max() - s[p]).relu())
    torch.testing.assert_close(t * make("ntxent", temperature=t)(z), hinge, atol=5e-4, rtol=0)


def test_hot_limit_is_linear():
    """t (L - log(2N - 1)) tends to the mean similarity of all candidates less the positive's."""
    z, t = batch(), 1e5
    linear = by_anchor(z, lambda s, p, n, view, v: s[[p, *n]].mean() - s[p])
    torch.testing.assert_close(t * (make("ntxent", temperature=t)(z) - math.log(11)), linear, rtol=1e-3, atol=1e-5)


def test_pair_losses_average_by_the_strategys_weights():
    """Tilted weights are normalised: a mean of the negatives' losses, not their sum."""
    from repel.negatives.soft import Tilt

    beta, t = 1.5, 0.2
    loss = pairs.MarginCosine(
        1.0, -1.0, 1, temperature=t, learn_temperature=False, candidates="all", symmetric=True,
        negatives=Tilt(beta, "max", False), queue=Queue(0, DIM), row_chunk=None,
    )  # fmt: skip
    expected = by_anchor(batch(), lambda s, p, n, view, v: 1 - s[p] + ((beta * s[n] / t).softmax(0) * (s[n] + 1)).sum())
    torch.testing.assert_close(loss(batch()), expected, rtol=1e-10, atol=0)
