"""Losses: the contract for every YAML in conf with every strategy, golden values, equations by brute force."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import options
from golden_cases import CASES, GOLDEN_OPTIONS, assert_golden, cosine_embedding, of_options, triplets
from hydra.errors import InstantiationException
from loss_cases import (
    DIM,
    IDS,
    LABELS,
    NO_NEGATIVES,
    NO_SUM,
    PAIRS,
    REFUSED,
    assert_equal,
    batch,
    batch_of,
    in_make_test,
    make,
    node,
    remember,
    setting,
    stops_gradient,
    value_and_gradient,
    with_and_without_memory,
)

from repel.losses import base, pairs, ratio, rowwise
from repel.losses import chunking as memory
from repel.losses.queue import Queue
from repel.losses.soft_targets import sinkhorn


def test_make_test_covers_all_pairs_and_each_part_with_and_without_a_memory():
    covered = {(*pair, memory) for pair in PAIRS for memory in (False, True) if in_make_test(*pair, memory)}
    assert {(loss, strategy) for loss, strategy, _ in covered} == set(PAIRS)
    assert {(loss, memory) for loss, _, memory in covered} == set(itertools.product(options("loss"), (False, True)))
    assert {(part, memory) for _, part, memory in covered} == set(
        itertools.product(options("negatives"), (False, True))
    )
    assert len(covered) < 0.6 * 2 * len(PAIRS)


@with_and_without_memory()
class TestContract:
    def test_scalar_with_finite_gradient(self, pair, memory):
        for views in (2, 3):
            made, arguments = setting(pair, views, memory)
            value, gradient = value_and_gradient(made, batch(views), **arguments)
            assert value.shape == ()
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()
            if pair != ("ressl", "semi_hard"):  # six samples leave hardly any anchor two candidates to relate
                assert gradient.abs().sum() > 0

    def test_a_call_changes_nothing(self, pair, memory):
        made, arguments = setting(pair, 2, memory)
        before = {name: value.clone() for name, value in made.state_dict().items()}
        values = [made(batch(), **arguments) for _ in range(2)]
        assert torch.equal(*values)
        assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())

    def test_says_whether_labels_matter(self, pair, memory):
        made, arguments = setting(pair, 2, memory)
        values = [made(batch(), **(arguments | {"labels": labels})) for labels in (LABELS, LABELS.flip(0))]
        assert torch.equal(*values) is not made.supervised
        if not made.supervised:
            assert torch.equal(made(batch(), **(arguments | {"labels": None})), values[0])

    def test_gradcheck(self, pair, memory):
        if not stops_gradient(pair, memory):
            made, arguments = setting(pair, 2, memory)
            assert torch.autograd.gradcheck(lambda z: made(z, **arguments), batch(), fast_mode=True)

    def test_local_anchors_average_to_the_whole(self, pair, memory):
        for views in (2, 3):
            (made, arguments), z = setting(pair, views, memory), batch(views)
            whole = value_and_gradient(made, z, **arguments)
            parts = [value_and_gradient(made, z, **arguments, local=slice(i, i + 2)) for i in (0, 2, 4)]
            assert_equal(whole, [sum(p) / 3 for p in zip(*parts, strict=True)], rtol=1e-12, atol=1e-14)

    def test_row_chunks_change_nothing(self, pair, memory):
        if pair[0] in NO_NEGATIVES:
            return
        for views, chunk in ((2, 1), (2, 12), (3, 5)):
            z = batch(views)
            results = []
            for row_chunk in (None, chunk):
                made, arguments = setting(pair, views, memory, row_chunk=row_chunk)
                results.append(value_and_gradient(made, z, **arguments))
            assert_equal(*results, rtol=1e-12, atol=1e-14)

    def test_order_of_samples_and_views_and_rotation_do_not_matter(self, pair, memory):
        made, arguments = setting(pair, 2, memory)
        z, order, target = batch(), torch.tensor([3, 0, 5, 1, 4, 2]), arguments.get("target")
        value = made(z, **arguments)
        moved = {"labels": LABELS[order], "ids": IDS[order]}
        if memory:
            moved["target"] = target[:, order]
        torch.testing.assert_close(made(z[:, order], **moved), value, rtol=1e-12, atol=1e-14)
        if memory:
            arguments["target"] = target.flip(0)
        torch.testing.assert_close(made(z.flip(0), **arguments), value, rtol=1e-12, atol=1e-14)
        if pair[0] in ("barlow", "vicreg", "swav"):
            return  # they know their axes
        rotation = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64)).Q
        if memory:
            arguments["target"] = target @ rotation
            if pair[0] not in NO_NEGATIVES:
                made.queue.z @= rotation
        torch.testing.assert_close(made(z @ rotation, **arguments), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_finite_in_low_precision_and_computed_in_float32(pair, dtype):
    z, labels, ids = batch(samples=64, dim=16, dtype=torch.float32).detach(), torch.arange(64) % 4, torch.arange(64)
    for temperature in [0.005, 0.07, 1.0] if "temperature" in node("loss", pair[0]) else [None]:
        changes = {} if temperature is None else {"temperature": temperature}
        changes |= {"dim": 16} if pair[0] == "swav" else {}
        changes |= {"learn_temperature": False} if pair[0] == "siglip" else {}
        made = make(*pair, **changes).float()
        with torch.autocast("cpu", torch.bfloat16):
            value, gradient = value_and_gradient(made, z.to(dtype), labels=labels, ids=ids)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        exact = made.double()(z.to(dtype).double(), labels, ids)
        torch.testing.assert_close(value.double(), exact, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", options("loss"))
def test_one_sample_is_refused(name):
    with pytest.raises(ValueError, match="2 samples"):
        make(name)(batch(samples=1), labels=LABELS[:1])


def test_what_refuses_what():
    assert {"barlow", "vicreg", "swav", "byol"} <= NO_NEGATIVES
    assert {"siglip", "triplet", "margin_cosine", "cosine_regression", "supcon", "sce", "ressl"} <= NO_SUM
    summing = {"ntxent", "infonce", "decoupled", "decoupled_weighted", "dhel", "macl", "nnclr", "align_uniform"}
    assert not (summing | {"multi_similarity"}) & (NO_SUM | NO_NEGATIVES)


@pytest.mark.parametrize("pair", sorted(REFUSED), ids="-".join)
def test_pairs_without_a_meaning_are_refused(pair):
    """By the loss; those without negatives have no key for them, which the config's check refuses (tests/cli)."""
    if pair[0] in NO_NEGATIVES:
        assert "negatives" not in node("loss", pair[0])
        return
    with pytest.raises(InstantiationException, match="negatives") as caught:
        make(*pair)
    assert isinstance(caught.value.__cause__, ValueError)


# ------------------------------------------------------------------------------------------------------- golden values


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


# --------------------------------------------------------------------------------------------- equations by brute force


def cosines(z, target=None):
    """Cosines of all embeddings, and for each its sample and view."""
    flat = F.normalize(z, dim=-1).flatten(0, 1)
    other = flat if target is None else F.normalize(target, dim=-1).flatten(0, 1)
    views, n, _ = z.shape
    return flat @ other.T, [i % n for i in range(views * n)], [i // n for i in range(views * n)]


def by_anchor(z, term, target=None):
    """Mean over anchors i and positives p of term(s_i, p, negatives)."""
    s, sample, view = cosines(z, target)
    terms = []
    for i in range(len(s)):
        positives = [j for j in range(len(s)) if sample[j] == sample[i] and view[j] != view[i]]
        negatives = [j for j in range(len(s)) if sample[j] != sample[i]]
        terms += [term(s[i], p, negatives, view, view[i]) for p in positives]
    return torch.stack(terms).mean()


def t_of(name):
    return node("loss", name)["temperature"]


EQUATIONS = {
    "ntxent": lambda s, p, n, view, v: -torch.log(s[p].div(0.2).exp() / (s[[p, *n]] / 0.2).exp().sum()),
    "infonce": lambda s, p, n, view, v: (
        -torch.log(s[p].div(0.2).exp() / (s[[p, *(j for j in n if view[j] != v)]] / 0.2).exp().sum())
    ),
    "decoupled": lambda s, p, n, view, v: -s[p] / 0.2 + torch.log((s[n] / 0.2).exp().sum()),
    "triplet": lambda s, p, n, view, v: (0.2 + s[n] - s[p]).relu().mean(),
    "margin_cosine": lambda s, p, n, view, v: (1 - s[p]) + (s[n] - 0.2).relu().mean(),
    "cosine_regression": lambda s, p, n, view, v: 0.5 * (s[p] - 1) ** 2 + 0.5 * (s[n] ** 2).mean(),
    "siglip": lambda s, p, n, view, v: (
        F.softplus(-(s[p] / 0.1 - 10)) + F.softplus(s[[j for j in n if view[j] != v]] / 0.1 - 10).sum()
    ),
    "multi_similarity": lambda s, p, n, view, v: (
        torch.log1p(torch.exp(-2 * (s[p] - 0.5))) / 2 + torch.log1p(torch.exp(50 * (s[n] - 0.5)).sum()) / 50
    ),
    "byol": lambda s, p, n, view, v: 2 - 2 * s[p],
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equals_the_papers_equation(name):
    views = (2,) if name == "multi_similarity" else (2, 3)  # it sums over an anchor's positives
    for v in views:
        torch.testing.assert_close(make(name)(batch(v)), by_anchor(batch(v), EQUATIONS[name]), rtol=1e-10, atol=0)


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


def test_cold_limit_is_the_hinge_of_the_hardest_negative():
    z, t = batch(), 1e-3
    hinge = by_anchor(z, lambda s, p, n, view, v: (s[n].max() - s[p]).relu())
    torch.testing.assert_close(t * make("ntxent", temperature=t)(z), hinge, atol=5e-4, rtol=0)


def test_hot_limit_is_linear():
    """t (L - log(2N - 1)) tends to the mean similarity of all candidates less the positive's."""
    z, t = batch(), 1e5
    linear = by_anchor(z, lambda s, p, n, view, v: s[[p, *n]].mean() - s[p])
    torch.testing.assert_close(t * (make("ntxent", temperature=t)(z) - math.log(11)), linear, rtol=1e-3, atol=1e-5)


def test_queue_of_the_batchs_keys_is_cross_view_infonce():
    """losses.candidates=queue with the other view's keys in the queue: one way, the same as candidates=cross."""
    z, target = batch(), batch(seed=1).detach()
    from_queue = make("infonce", queue=6, candidates="queue", symmetric=False)
    from_queue.queue.push(F.normalize(target[1], dim=-1), IDS, None)
    in_batch = make("infonce", symmetric=False)
    results = [value_and_gradient(loss, z, ids=IDS, target=target) for loss in (from_queue, in_batch)]
    assert_equal(*results)


def test_the_same_image_in_the_queue_is_no_negative():
    z = batch()
    past = F.normalize(z.detach(), dim=-1)[0]
    loss = make("ntxent", queue=6)
    loss.queue.push(past, IDS, None)
    assert loss(z, ids=torch.arange(90, 96)) > loss(z, ids=IDS)  # as other images, they are the hardest negatives


# ------------------------------------------------------------------------------------------------- learned temperature


@pytest.mark.parametrize("name", ["ntxent", "infonce", "decoupled", "dhel", "supcon", "sce", "nnclr", "siglip"])
def test_learned_temperature_begins_at_its_value_and_has_a_gradient(name):
    learned = make(name, learn_temperature=True)
    fixed = make(name, learn_temperature=False)
    torch.testing.assert_close(learned(batch(), LABELS), fixed(batch(), LABELS), rtol=1e-6, atol=1e-7)
    assert torch.autograd.gradcheck(
        lambda log_factor: torch.func.functional_call(learned, {"log_factor": log_factor}, (batch().detach(), LABELS)),
        learned.log_factor.detach().clone().requires_grad_(),
    )


def test_learned_temperature_stays_above_a_hundredth():
    loss = make("ntxent", learn_temperature=True)
    loss.log_factor.data.fill_(7.0)
    loss.update(batch(), None, IDS)
    assert loss.statistics()["train/temperature"].item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("ntxent", {"temperature": 0.0}, "temperature"),
        ("ntxent", {"temperature": -0.5}, "temperature"),
        ("ntxent", {"temperature": float("nan")}, "temperature"),
        ("ntxent", {"temperature": 0.005, "learn_temperature": True}, "temperature"),
        ("ntxent", {"row_chunk": 0}, "row_chunk"),
        ("ntxent", {"row_chunk": -3}, "row_chunk"),
        ("ntxent", {"row_chunk": 2.5}, "row_chunk"),
        ("ntxent", {"row_chunk": "much"}, "row_chunk"),
        ("ntxent", {"candidates": "others"}, "candidates"),
        ("infonce", {"candidates": "queue"}, "candidates"),
        ("decoupled_weighted", {"sigma": 0}, "sigma"),
        ("macl", {"alpha": 2.0}, "alpha"),
        ("triplet", {"margin": 3.0}, "margin"),
        ("triplet", {"link": "square"}, "link"),
        ("triplet", {"learn_temperature": True}, "learn_temperature"),
        ("margin_cosine", {"learn_temperature": True}, "learn_temperature"),
        ("margin_cosine", {"power": 3}, "power"),
        ("margin_cosine", {"negative_margin": -2.0}, "negative_margin"),
        ("cosine_regression", {"margin": 1.5}, "margin"),
        ("multi_similarity", {"alpha": 0.0}, "alpha"),
        ("supcon", {"positives": "all"}, "positives"),
        ("supcon", {"candidates": "cross"}, "candidates"),
        ("supcon", {"symmetric": False}, "symmetric"),
        ("align_uniform", {"weight": 0.0}, "weight"),
        ("sce", {"coefficient": 1.5}, "coefficient"),
        ("ressl", {"target_temperature": 0.0}, "target_temperature"),
        ("swav", {"prototypes": 0}, "prototypes"),
        ("swav", {"epsilon": 0.0}, "epsilon"),
        ("barlow", {"redundancy": 0.0}, "redundancy"),
        ("vicreg", {"variance": -1.0}, "variance"),
    ],
)
def test_impossible_options_are_named(name, changes, word):
    with pytest.raises(InstantiationException) as caught:
        make(name, **changes)
    assert isinstance(caught.value.__cause__, ValueError)
    assert f"loss.{word}" in str(caught.value.__cause__)


def test_supcon_says_that_it_needs_labels():
    with pytest.raises(ValueError, match="labels"):
        make("supcon")(batch())


# ------------------------------------------------------------------------------------------------------------- memory


def test_auto_chunks_by_the_memory_there_is(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**40)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert memory.auto_chunk(256, 256, 4, cpu) is None
    assert memory.auto_chunk(2**14, 2**14, 4, gpu) is None
    small = memory.auto_chunk(2**14, 2**14, 4, cpu)
    assert 1 <= small < 2**14
    assert small & (small - 1) == 0
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**24)
    assert memory.auto_chunk(2**14, 2**14, 4, gpu) < small
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert memory.auto_chunk(2**14, 2**14, 4, cpu) == 1


def test_free_memory_is_a_plausible_number():
    assert 2**24 < memory.free_bytes(torch.device("cpu")) < 2**50


def test_auto_equals_all_at_once(monkeypatch):
    monkeypatch.setattr(rowwise, "ALWAYS_DENSE", 0)
    monkeypatch.setattr(rowwise, "auto_chunk", lambda *sizes: 4)
    results = [value_and_gradient(make("ntxent", "hcl", row_chunk=chunk), batch()) for chunk in ("auto", None)]
    assert_equal(*results)


def test_row_chunks_bound_the_memory(monkeypatch):
    """No more than row_chunk anchors are ever compared at a time, and no row of logits is kept for backward."""
    heights, sizes = [], []
    per_anchor = ratio.InfoNCE.per_anchor

    def watched(self, block, *rest):
        heights.append(len(block.logits))
        return per_anchor(self, block, *rest)

    monkeypatch.setattr(ratio.InfoNCE, "per_anchor", watched)
    z, loss = batch(samples=64), make("ntxent", row_chunk=8)
    value = loss(z)
    node, seen = [value.grad_fn], set()
    while node:  # what the graph holds on to
        current = node.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        sizes += [t.numel() for t in getattr(current, "saved_tensors", ()) if t is not None]
        node += [n for n, _ in current.next_functions]
    value.backward()
    assert set(heights) == {8}
    assert len(sizes) >= 2
    assert max(sizes) <= 2 * 64 * DIM  # the embeddings themselves


def test_rows_of_different_weight_get_their_own_gradient():
    """Where the loss is no mean over anchors, blocks are computed again with the weights."""
    results = []
    for chunk in (None, 5):
        z = batch().detach().requires_grad_()
        values = make("ntxent", "hcl", row_chunk=chunk, learn_temperature=True).losses(batch_of(z, None, IDS))
        (values * torch.arange(12)).sum().backward()
        results.append((values.detach(), z.grad))
    assert_equal(*results, rtol=1e-12, atol=1e-14)


def test_without_gradient_blocks_are_only_values():
    with torch.no_grad():
        values = [make("ntxent", row_chunk=chunk)(batch()) for chunk in (None, 5)]
    assert not values[1].requires_grad
    torch.testing.assert_close(*values)


# ------------------------------------------------------------------------------------------------------------ mistakes


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
        test_golden_values_and_gradients("ntxent_t0.5")
    if mistake != "no gradient through the candidates":
        with pytest.raises(AssertionError):
            test_equals_the_papers_equation("ntxent")


def test_embeddings_that_are_not_normalised_are_caught(monkeypatch):
    monkeypatch.setattr(base, "unit", lambda z: z)
    with pytest.raises(AssertionError):
        test_golden_values_and_gradients("ntxent_t0.5")
    with pytest.raises(AssertionError):
        test_equals_the_papers_equation("ntxent")


# --------------------------------------------------------------------------------------------------------------- queue


def test_queue_holds_the_last_embeddings_whatever_the_sizes():
    """Any number of batches of any size equal the tail of all of them."""
    for size, sizes in itertools.product((1, 7, 20), ([8, 8, 8], [3, 1, 9, 2], [50], [7, 7], [2])):
        queue, everything = Queue(size, 2), torch.arange(2 * sum(sizes)).float().view(-1, 2)
        start = 0
        for n in sizes:
            ids = torch.arange(start, start + n)
            queue.push(everything[ids], ids, ids % 3)
            start += n
            z, kept_ids, labels = queue.entries()
            expected = torch.arange(max(0, start - size), start)
            assert sorted(kept_ids.tolist()) == expected.tolist()
            assert torch.equal(z, everything[kept_ids])
            assert torch.equal(labels, kept_ids % 3)
            assert len(queue) == min(size, start)


def test_queue_survives_a_round_trip():
    queue, other = Queue(5, 2), Queue(5, 2)
    queue.push(torch.rand(7, 2), torch.arange(7), None)
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        q.push(torch.ones(3, 2), torch.arange(7, 10), None)
    assert all(torch.equal(a, b) for a, b in zip(queue.entries(), other.entries(), strict=True))
    assert queue.labels.tolist() == [-1] * 5


def test_empty_queue_is_valid():
    loss = make("infonce", queue=4, candidates="queue")
    value, gradient = value_and_gradient(loss, batch(), ids=IDS)
    assert value == 0  # no negatives yet
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("size", [-1, 2.5])
def test_queue_size_is_checked(size):
    with pytest.raises(ValueError, match=r"queue\.size"):
        Queue(size, 2)


def test_update_remembers_every_view_that_was_compared_with():
    loss, keys = make("ntxent", queue=100), batch()
    loss.update(keys, LABELS, IDS)
    z, ids, labels = loss.queue.entries()
    torch.testing.assert_close(z, F.normalize(keys.detach(), dim=-1).flatten(0, 1))
    assert torch.equal(ids, IDS.repeat(2))
    assert torch.equal(labels, LABELS.repeat(2))
    one_way = make("infonce", queue=100, symmetric=False)
    one_way.update(keys, LABELS, IDS)
    torch.testing.assert_close(one_way.queue.entries()[0], F.normalize(keys.detach(), dim=-1)[1])


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
