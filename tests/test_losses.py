"""Losses and strategies: the contract for every YAML in conf, NT-Xent against its equation and golden values."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import config, options
from hydra.utils import instantiate

from repel.losses.ntxent import NTXent
from repel.negatives import hard, soft
from repel.negatives.strategy import Rows
from repel.negatives.uniform import Uniform

GOLDEN = json.loads((Path(__file__).parent / "data/golden_losses.json").read_text())
PAIRS = list(itertools.product(options("loss"), options("negatives")))


def build(loss: str, negatives: str = "uniform", **changes):
    cfg = config(f"loss={loss}", f"negatives={negatives}").loss
    return instantiate({**cfg, **changes}).double()


def batch(views: int = 2, samples: int = 6, dim: int = 5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(views * samples)
    return torch.randn(views, samples, dim, generator=generator, dtype=dtype).requires_grad_()


LABELS, IDS = torch.tensor([0, 0, 1, 1, 2, 1]), torch.tensor([10, 11, 12, 13, 14, 15])


def value_and_gradient(loss, z, **arguments):
    z = z.detach().requires_grad_()
    value = loss(z, **arguments)
    value.backward()
    return value.detach(), z.grad


@pytest.mark.parametrize(("loss", "negatives"), PAIRS)
class TestContract:
    def test_scalar_with_finite_gradient(self, loss, negatives):
        value, gradient = value_and_gradient(build(loss, negatives), batch(), labels=LABELS, ids=IDS)
        assert value.shape == ()
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0

    def test_says_whether_labels_matter(self, loss, negatives):
        made = build(loss, negatives)
        values = [made(batch(), labels, IDS) for labels in (LABELS, LABELS.flip(0))]
        assert torch.equal(*values) is not made.supervised

    def test_gradcheck(self, loss, negatives):
        made = build(loss, negatives)
        assert torch.autograd.gradcheck(lambda z: made(z, LABELS, IDS), batch())

    @pytest.mark.parametrize("views", [2, 3])
    def test_local_anchors_average_to_the_whole(self, loss, negatives, views):
        made, z = build(loss, negatives), batch(views)
        whole = value_and_gradient(made, z, labels=LABELS, ids=IDS)
        parts = [value_and_gradient(made, z, labels=LABELS, ids=IDS, local=slice(i, i + 2)) for i in (0, 2, 4)]
        for a, *b in zip(whole, *parts, strict=True):
            torch.testing.assert_close(a, sum(b) / 3, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("views", [2, 3])
    @pytest.mark.parametrize("chunk", [1, 5, 100])
    def test_row_chunks_change_nothing(self, loss, negatives, views, chunk):
        z = batch(views)
        whole = value_and_gradient(build(loss, negatives), z, labels=LABELS, ids=IDS)
        chunked = value_and_gradient(build(loss, negatives, row_chunk=chunk), z, labels=LABELS, ids=IDS)
        for a, b in zip(whole, chunked, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)

    def test_order_of_samples_and_views_and_rotation_do_not_matter(self, loss, negatives):
        made, z, order = build(loss, negatives), batch(), torch.tensor([3, 0, 5, 1, 4, 2])
        value = made(z, LABELS, IDS)
        rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
        torch.testing.assert_close(made(z[:, order], LABELS[order], IDS[order]), value, rtol=1e-12, atol=0)
        torch.testing.assert_close(made(z.flip(0), LABELS, IDS), value, rtol=1e-12, atol=0)
        torch.testing.assert_close(made(z @ rotation, LABELS, IDS), value, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("temperature", [0.005, 0.07, 1.0])
    def test_finite_in_low_precision_and_computed_in_float32(self, loss, negatives, dtype, temperature):
        made = build(loss, negatives, temperature=temperature).float()
        z = batch(samples=64, dim=16, dtype=torch.float32).detach()
        labels = torch.arange(64) % 4
        with torch.autocast("cpu", torch.bfloat16):
            value, gradient = value_and_gradient(made, z.to(dtype), labels=labels, ids=torch.arange(64))
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        exact = made.double()(z.to(dtype).double(), labels, torch.arange(64))
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-5)

    def test_one_sample_is_refused(self, loss, negatives):
        with pytest.raises(ValueError, match="2 samples"):
            build(loss, negatives)(batch(samples=1))


def ntxent(temperature=0.5, row_chunk=None):
    return NTXent(temperature=temperature, negatives=Uniform(), row_chunk=row_chunk)


@pytest.mark.parametrize("name", [name for name in GOLDEN["cases"] if name.startswith("ntxent_t")])
def test_golden_values_and_gradients(name):
    case = GOLDEN["cases"][name]
    z = torch.tensor([GOLDEN["z0"], GOLDEN["z1"]], dtype=torch.float64)
    value, gradient = value_and_gradient(ntxent(case["params"]["temperature"]), z)
    assert value.item() == pytest.approx(case["value"], rel=1e-12)
    expected = torch.tensor([case["grad_z0"], case["grad_z1"]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("views", [2, 3])
def test_equals_the_papers_equation(views):
    """Chen et al. 2020, eq. 1, anchor by anchor; with more views, a mean over the anchor's positives."""
    z, t = batch(views), 0.3
    flat = F.normalize(z, dim=-1).flatten(0, 1)
    s, n, terms = flat @ flat.T / t, z.shape[1], []
    for i in range(len(flat)):
        positives = [j for j in range(len(flat)) if j % n == i % n and j != i]
        negatives = [j for j in range(len(flat)) if j % n != i % n]
        terms += [-torch.log(s[i, p].exp() / (s[i, p].exp() + s[i, negatives].exp().sum())) for p in positives]
    torch.testing.assert_close(ntxent(t)(z), torch.stack(terms).mean(), rtol=1e-12, atol=0)


def test_closed_forms():
    n, t = 5, 0.5
    collapsed = torch.ones(2, n, 8, dtype=torch.float64)
    assert ntxent(t)(collapsed).item() == pytest.approx(math.log(2 * n - 1), rel=1e-12)
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n  # cosines of -1 / (n - 1) between samples
    optimum = math.log(1 + (2 * n - 2) * math.exp(-(1 + 1 / (n - 1)) / t))
    assert ntxent(t)(simplex.expand(2, n, n)).item() == pytest.approx(optimum, rel=1e-12)


def test_cold_limit_is_the_hinge_of_the_hardest_negative():
    z, t = batch(), 1e-3
    flat = F.normalize(z, dim=-1).flatten(0, 1)
    s = flat @ flat.T
    positive = s[torch.arange(12), torch.arange(12).roll(6)]
    same = torch.arange(12)[:, None] % 6 == torch.arange(12) % 6
    hinge = (s.masked_fill(same, -9).amax(1) - positive).relu().mean()
    torch.testing.assert_close(t * ntxent(t)(z), hinge, atol=5e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, -0.5, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=r"loss\.temperature"):
        ntxent(temperature)


@pytest.mark.parametrize("chunk", [0, -3, 2.5])
def test_row_chunk_must_be_positive(chunk):
    with pytest.raises(ValueError, match=r"loss\.row_chunk"):
        ntxent(row_chunk=chunk)


# ---------------------------------------------------------------------------------------------------------- strategies


def with_negatives(strategy, temperature: float = 0.5, z=None, labels=LABELS):
    """Value and gradient of NT-Xent under a strategy."""
    loss = NTXent(temperature=temperature, negatives=strategy, row_chunk=None)
    return value_and_gradient(loss, batch() if z is None else z, labels=labels, ids=IDS)


def assert_equal(a, b, **tolerance):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **({"rtol": 1e-10, "atol": 1e-12} | tolerance))


@pytest.mark.parametrize("name", [name for name in GOLDEN["cases"] if name.startswith("hcl_")])
def test_hcl_equals_the_authors_code(name):
    case = GOLDEN["cases"][name]
    z = torch.tensor([GOLDEN["z0"], GOLDEN["z1"]], dtype=torch.float64)
    strategy = soft.HCL(case["params"]["beta"], case["params"]["tau_plus"], detach=False)
    value, gradient = with_negatives(strategy, case["params"]["temperature"], z)
    assert value.item() == pytest.approx(case["value"], rel=1e-12)
    expected = torch.tensor([case["grad_z0"], case["grad_z1"]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


UNIFORM = {
    "topk of all": hard.TopK(10),
    "topk of more than all": hard.TopK(1000),
    "annulus(0, 1)": hard.Annulus(0.0, 1.0),
    "tilt(0, max)": soft.Tilt(0.0, "max", False),
    "tilt(0, mean)": soft.Tilt(0.0, "mean", False),
    "debiased(0)": soft.Debiased(0.0),
    "hcl(0, 0)": soft.HCL(0.0, 0.0, False),
    "false_negatives above 1": hard.FalseNegatives(1.0, None, False),
    "chain(uniform)": soft.Chain([Uniform(), Uniform()]),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_limits_that_are_uniform(name):
    assert_equal(with_negatives(UNIFORM[name]), with_negatives(Uniform()))


def test_labels_that_are_all_different_drop_nothing():
    labels = torch.arange(6)
    assert_equal(with_negatives(hard.FalseNegatives(2.0, None, True), labels=labels), with_negatives(Uniform()))


def test_false_negatives_by_label_leave_other_classes_alone():
    """Chen et al.'s equation over negatives of other classes, anchor by anchor."""
    z, t, labels = batch(), 0.5, LABELS.repeat(2)
    s = (flat := F.normalize(z, dim=-1).flatten(0, 1)) @ flat.T / t
    terms = []
    for i in range(12):
        p, others = (i + 6) % 12, labels != labels[i]
        terms.append(-torch.log(s[i, p].exp() / (s[i, p].exp() + s[i, others].exp().sum())))
    made = NTXent(t, hard.FalseNegatives(2.0, None, True), None)
    assert made.supervised
    torch.testing.assert_close(made(z, LABELS, IDS), torch.stack(terms).mean())


def test_hardest_is_the_limit_of_the_others():
    hardest = with_negatives(hard.TopK(1))
    assert_equal(with_negatives(hard.Annulus(0.0, 0.1)), hardest)
    assert_equal(with_negatives(soft.Tilt(1e5, "max", True)), hardest, rtol=1e-6, atol=1e-8)
    z, t = batch(), 0.5
    s = (flat := F.normalize(z, dim=-1).flatten(0, 1)) @ flat.T / t
    same = torch.arange(12)[:, None] % 6 == torch.arange(12) % 6
    positive = s[torch.arange(12), torch.arange(12).roll(6)]
    expected = F.softplus(s.masked_fill(same, -torch.inf).amax(1) - positive).mean()
    torch.testing.assert_close(hardest[0], expected.detach())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.8])
def test_annulus_from_the_top_is_topk(share):
    assert_equal(with_negatives(hard.Annulus(0.0, share)), with_negatives(hard.TopK(math.ceil(share * 10 - 1e-9))))


def test_more_negatives_make_a_larger_loss():
    values = [with_negatives(hard.TopK(k))[0] for k in range(1, 11)]
    assert all(a < b for a, b in itertools.pairwise(values))


def test_tilt_with_mean_one_has_the_hcl_form():
    """log Z = LSE((1 + beta) l) - LSE(beta l) + log n, Robinson et al. 2021."""
    z, t, beta = batch(), 0.5, 1.5
    s = (flat := F.normalize(z, dim=-1).flatten(0, 1)) @ flat.T / t
    same = torch.arange(12)[:, None] % 6 == torch.arange(12) % 6
    s_n = s.masked_fill(same, -torch.inf)
    log_z = ((1 + beta) * s_n).logsumexp(1) - (beta * s_n).logsumexp(1) + math.log(10)
    expected = F.softplus(log_z - s[torch.arange(12), torch.arange(12).roll(6)]).mean()
    torch.testing.assert_close(with_negatives(soft.Tilt(beta, "mean", False))[0], expected.detach())


def test_detached_tilt_has_the_gradient_of_a_colder_temperature():
    rows = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    everything = Rows(rows, rows[:, 0], torch.ones_like(rows, dtype=torch.bool), 2.0)
    log_z = (rows + soft.Tilt(1.5, "mean", True).weights(everything)).logsumexp(1)
    (gradient,) = torch.autograd.grad(log_z.sum(), rows)
    torch.testing.assert_close(gradient, (2.5 * rows).softmax(1))


def test_debiased_at_its_floor_moves_no_negative():
    rows = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    positive = torch.full((4,), 20.0, dtype=torch.float64)
    log_z = soft.Debiased(0.1).correct(rows.logsumexp(1), Rows(rows, positive, torch.ones_like(rows).bool(), 20.0))
    torch.testing.assert_close(log_z, torch.full((4,), math.log(9) - 20.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_z.sum(), rows)
    assert torch.equal(gradient, torch.zeros_like(rows))


def test_an_anchor_without_negatives_adds_nothing():
    value, gradient = with_negatives(hard.SemiHard(1e-9))
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_semi_hard_keeps_what_the_equation_says():
    z, t, margin = batch(), 0.5, 0.4
    s = (flat := F.normalize(z, dim=-1).flatten(0, 1)) @ flat.T
    terms = []
    for i in range(12):
        p = s[i, (i + 6) % 12]
        kept = [s[i, j] for j in range(12) if j % 6 != i % 6 and p - margin < s[i, j] < p]
        zero = torch.zeros((), dtype=torch.float64)
        terms.append(torch.log1p(sum(torch.exp((k - p) / t) for k in kept)) if kept else zero)
    torch.testing.assert_close(with_negatives(hard.SemiHard(margin))[0], torch.stack(terms).mean().detach())


def test_later_members_of_a_chain_see_what_earlier_ones_keep():
    second = soft.Chain([hard.TopK(2), hard.Annulus(0.5, 1.0)])  # the second hardest
    assert_equal(with_negatives(second), with_negatives(hard.Annulus(0.1, 0.2)))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: hard.TopK(0), "k"),
        (lambda: hard.Annulus(0.5, 0.5), "low"),
        (lambda: hard.SemiHard(0.0), "margin"),
        (lambda: soft.Tilt(-1.0, "max", False), "beta"),
        (lambda: soft.Tilt(1.0, "sum", False), "norm"),
        (lambda: soft.Debiased(1.0), "tau_plus"),
        (lambda: soft.Chain([]), "strategies"),
    ],
)
def test_impossible_strategies_are_named(make, word):
    with pytest.raises(ValueError, match=rf"negatives\.{word}"):
        make()
