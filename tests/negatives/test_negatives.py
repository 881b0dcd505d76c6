"""Strategies: their equations, limits and closed forms, under NT-Xent."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from golden_cases import HCL, assert_golden, of_hcl, with_negatives
from loss_cases import DIM, IDS, LABELS, assert_equal, batch, batch_of, make, remember, value_and_gradient

from repel.negatives import hard, mixed, soft
from repel.negatives.strategy import LogitBlock
from repel.negatives.uniform import Uniform


@pytest.mark.parametrize("name", HCL)
def test_hcl_equals_the_authors_code(name):
    assert_golden(name, *of_hcl(name))


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
    "chain(tilt(0), uniform)": soft.Chain([soft.Tilt(0.0, "max", False), Uniform()]),
    "mixed of none": mixed.Mixed(4, 0, 0, seed=1),
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
    made = make("ntxent", hard.FalseNegatives(2.0, None, True), temperature=t)
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
    everything = LogitBlock(rows, rows[:, 0], torch.ones_like(rows, dtype=torch.bool), 2.0)
    log_z = (rows + soft.Tilt(1.5, "mean", True).weights(everything)).logsumexp(1)
    (gradient,) = torch.autograd.grad(log_z.sum(), rows)
    torch.testing.assert_close(gradient, (2.5 * rows).softmax(1))


@pytest.mark.parametrize("name", ["ntxent", "decoupled", "decoupled_weighted", "dhel", "macl", "nnclr", "sce", "ressl"])
def test_an_anchor_without_negatives_adds_nothing(name):
    value, gradient = value_and_gradient(make(name, hard.SemiHard(1e-9)), batch(3), ids=IDS)
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
        (lambda: mixed.Mixed(0, 1, 1, 0), "hardest"),
        (lambda: mixed.Mixed(1, -1, 1, 0), "pairs"),
    ],
)
def test_impossible_strategies_are_named(make, word):
    with pytest.raises(ValueError, match=rf"negatives\.{word}"):
        make()


def mixtures(strategy, z, hardest: int, pairs: int):
    """MoCHi's equations 2 and 3, anchor by anchor, with the strategy's own draws; no gradient through the mixtures."""
    from repel.base import seeding

    draws = seeding.generator(strategy.seed, seeding.MIXTURES, int(strategy.batches))
    count = strategy.pairs + strategy.with_anchor
    ranks = torch.randint(hardest, (2, count), generator=draws)
    share = torch.rand(count, generator=draws, dtype=torch.float64)
    q = F.normalize(z, dim=-1).flatten(0, 1)
    fixed, terms = q.detach(), []
    for i in range(12):
        others = sorted((j for j in range(12) if j % 6 != i % 6), key=lambda j: -(fixed[i] @ fixed[j]).item())
        made = []
        for k in range(count):
            n, m, a = fixed[others[ranks[0, k]]], fixed[others[ranks[1, k]]], share[k]
            made.append(F.normalize(a * n + (1 - a) * m if k < pairs else a / 2 * fixed[i] + (1 - a / 2) * n, dim=0))
        logits = torch.cat([q[i : i + 1] @ q[others].T, q[i : i + 1] @ torch.stack(made).T], dim=1) / 0.5
        positive = q[i] @ q[(i + 6) % 12] / 0.5
        terms.append(F.softplus(logits.logsumexp(1) - positive))
    return torch.stack(terms).mean()


def test_mixed_equals_its_equations():
    strategy = mixed.Mixed(4, 3, 2, seed=1)
    ours = with_negatives(strategy)
    assert_equal(ours, value_and_gradient(lambda z: mixtures(strategy, z, 4, 3), batch()))


def test_mixtures_change_with_the_batch_and_come_back_with_the_state():
    strategy = mixed.Mixed(4, 3, 2, seed=1)
    first, state = with_negatives(strategy)[0], {k: v.clone() for k, v in strategy.state_dict().items()}
    strategy.advance()
    assert with_negatives(strategy)[0] != first
    strategy.load_state_dict(state)
    assert with_negatives(strategy)[0] == first


def test_more_mixtures_make_a_larger_loss():
    values = [with_negatives(mixed.Mixed(4, pairs, 0, seed=1))[0] for pairs in (0, 1, 5, 20)]
    assert all(a < b for a, b in itertools.pairwise(values))


def test_mixtures_are_made_of_negatives_alone():
    """Where only two negatives are left, the mixtures are of these; where none is, there are none."""
    chain = soft.Chain([hard.TopK(1), mixed.Mixed(64, 5, 0, seed=1)])
    one = with_negatives(chain)[0]  # of one negative with itself: six copies of it in all
    hardest = make("ntxent", hard.TopK(1), temperature=0.5)
    rows = hardest.losses(batch_of(batch()))
    x = torch.log(torch.expm1(rows))  # log Z - l_p
    copies = 1 + 5
    available = 10  # ranks are drawn among all candidates; only the first of them is a negative here
    assert torch.isfinite(one)
    assert F.softplus(x).mean() - 1e-12 <= one <= F.softplus(x + math.log(copies)).mean() + 1e-12
    assert available > 1


def test_mixtures_count_for_debiasing():
    """Debiasing after mixing takes n as all negatives, the synthetic ones too."""
    counts = []

    class Spy(soft.Debiased):
        def correct(self, log_z, block):
            counts.append(block.negative.sum(1))
            return super().correct(log_z, block)

    with_negatives(soft.Chain([mixed.Mixed(4, 3, 2, seed=1), Spy(0.1)]))
    assert counts[0].tolist() == [15] * 12


def test_hcl_takes_its_numbers_by_name():
    hcl = soft.HCL(1.0, 0.1, detach=False)
    hcl.beta, hcl.tau_plus = 2.0, 0.05
    assert (hcl.beta, hcl.tau_plus) == (2.0, 0.05)
    assert_equal(with_negatives(hcl), with_negatives(soft.HCL(2.0, 0.05, detach=False)))


def test_labels_of_the_queue_are_seen_by_the_oracle():
    loss = remember(make("ntxent", hard.FalseNegatives(2.0, None, True), queue=8))
    counts = []
    weigh = loss.negatives.weigh
    loss.negatives.weigh = lambda block: (lambda out: counts.append(out.negative.sum(1)) or out)(weigh(block))
    loss(batch(dim=DIM), LABELS, IDS)
    # of class 0 (samples 0 and 1): 8 of the batch; in the queue 7, less the one of class 0, which is also image 10
    assert counts[0][:2].tolist() == [8 + 6, 8 + 6]
