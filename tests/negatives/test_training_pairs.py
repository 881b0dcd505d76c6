"""Strategies for pairs of users and items: known pairs, popularity, random negatives; each against its equation."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from loss_cases import assert_equal, batch, make, value_and_gradient

from repel.data.samples import DataInfo, give_info
from repel.interactions.pairs import InteractionInfo
from repel.model.anneal import Anneal
from repel.negatives import Annulus, Chain, Hardest, Known, LogitBlock, Popularity, Random, SemiHard, Tilt, TopK
from repel.negatives.training_pairs import Neighbors

T, N, USERS, ITEMS = 0.5, 6, 4, 6
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 1), (2, 2), (3, 4)]  # item 5 is in none
DATA = InteractionInfo(len(PAIRS), users=USERS, items=ITEMS, pairs=torch.tensor(PAIRS, dtype=torch.int32))
SAMPLES = [(0, 0), (0, 1), (1, 3), (2, 1), (3, 4), (1, 1)]  # users 0 and 1, and item 1, repeat
IDS = torch.tensor([[u for u, _ in SAMPLES], [USERS + i for _, i in SAMPLES]])
EXPLICIT = batch(1, seed=2).detach()
EXPLICIT_IDS = USERS + torch.tensor([[2, 5, 0, 3, 3, 5]])
QUEUED = USERS + torch.tensor([2, 4, 1, 0])
PAST = F.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64), dim=-1)


def pair_set() -> set[tuple[int, int]]:
    """As entities, in both directions."""
    return {edge for u, i in PAIRS for edge in ((u, USERS + i), (USERS + i, u))}


def share(entity: int) -> float:
    return max(1, sum(entity in (u, USERS + i) for u, i in PAIRS)) / len(PAIRS)


def log_q(entity: int) -> torch.Tensor:
    return torch.tensor(share(entity), dtype=torch.float64).log()


def given(strategy):
    give_info(strategy, DATA)
    return strategy


def computed(strategy, name="infonce", row_chunk=None, further=True, views=batch, **changes):
    """Both directions of six pairs with four queued and six explicit items."""
    loss = make(name, strategy, temperature=T, row_chunk=row_chunk, queue=4 * further, **changes)
    give_info(loss.negatives, DATA)
    arguments = {"ids": IDS}
    if further:
        loss.queue.push(PAST, QUEUED, None)
        arguments |= {"negatives": EXPLICIT, "negative_ids": EXPLICIT_IDS}
    return value_and_gradient(loss, views(), **arguments)


def by_anchor(term, further=True, every_view=False):
    """The mean of term(l_p, l, i, p, entities, explicit): logits of an anchor and of what its own rule leaves."""

    def loss(z):
        unit, terms = F.normalize(z, dim=-1), []
        for view in (0, 1):
            shown = [(v, j) for v in ((0, 1) if every_view else (1 - view,)) for j in range(N)]
            candidates = [(unit[v, j], IDS[v, j].item(), False) for v, j in shown]
            if further:
                candidates += [(z_, e, False) for z_, e in zip(PAST, QUEUED.tolist(), strict=True)]
                explicit = zip(F.normalize(EXPLICIT[0], dim=-1), EXPLICIT_IDS[0].tolist(), strict=True)
                candidates += [(z_, e, True) for z_, e in explicit]
            for s in range(N):
                anchor, own = unit[view, s], set(IDS[:, s].tolist())
                left = [(anchor @ z_ / T, e, x) for z_, e, x in candidates if e not in own]
                logits, entities, is_explicit = zip(*left, strict=True)
                positive = anchor @ unit[1 - view, s] / T
                i, p = IDS[view, s].item(), IDS[1 - view, s].item()
                terms.append(term(positive, torch.stack(logits), i, p, entities, is_explicit))
        return torch.stack(terms).mean()

    return value_and_gradient(loss, batch())


def without_known(positive, logits, i, p, entities, explicit):
    keep = torch.tensor([(i, e) not in pair_set() for e in entities])
    z = logits[keep].exp().sum()
    return -(positive.exp() / (positive.exp() + z)).log()


def corrected(logits, p, entities, explicit, power=1.0):
    def drawn(entity, is_explicit):
        uniform = torch.tensor(1 / (USERS if entity < USERS else ITEMS), dtype=torch.float64)
        return uniform.log() if is_explicit else log_q(entity)

    q = torch.stack([drawn(*candidate) for candidate in zip(entities, explicit, strict=True)])
    return logits + power * (log_q(p) - q)


@pytest.mark.parametrize("row_chunk", [None, 4])
def test_known_drops_both_directions(row_chunk):
    assert_equal(computed(Known(), row_chunk=row_chunk), by_anchor(without_known))
    plain = by_anchor(lambda positive, logits, *_: F.softplus(logits.logsumexp(0) - positive))
    assert not torch.allclose(computed(Known())[0], plain[0])


def test_known_among_all_views():
    ours = computed(Known(), "ntxent", further=False)
    assert_equal(ours, by_anchor(without_known, further=False, every_view=True))


def test_the_form_for_a_gpu_finds_the_same():
    draws = torch.Generator().manual_seed(1)
    info = SimpleNamespace(users=30, items=20, pairs=torch.unique(torch.randint(20, (200, 2), generator=draws), dim=0))
    graph = Neighbors.of(info)
    edges = {(u, 30 + i) for u, i in info.pairs.tolist()} | {(30 + i, u) for u, i in info.pairs.tolist()}
    for m, n in ((40, 70), (1, 3), (60, 1), (5, 0)):
        rows, cols = torch.randint(50, (m,), generator=draws), torch.randint(-1, 50, (n,), generator=draws)
        table, cells = graph.table(rows, cols), graph.cells(rows, cols)
        assert table.tolist() == [[(r, c) in edges for c in cols.tolist()] for r in rows.tolist()]
        assert sorted(cells.tolist()) == table.flatten().nonzero().squeeze(1).tolist()


def test_known_drops_training_pairs_among_the_negatives():
    strategy = given(Known())
    block = LogitBlock(torch.zeros(2, 4), torch.zeros(2), torch.tensor([[True] * 4, [True, True, False, False]]), 1.0)
    ids = {"row_ids": torch.tensor([0, 1]), "col_ids": USERS + torch.tensor([1, 1, 3, 5])}
    kept = strategy.weigh(block._replace(**ids)).negative
    assert kept.tolist() == [[False, False, True, True], [False, False, False, False]]
    assert block.negative.sum() == 6


@pytest.mark.parametrize("row_chunk", [None, 4])
@pytest.mark.parametrize("power", [1.0, 0.4])
def test_popularity_is_log_q(power, row_chunk):
    """The softmax of corrected logits: every logit, the positive's too, less its log q (Yi et al. 2019)."""

    def term(positive, logits, i, p, entities, explicit):
        zero = power * log_q(p)  # the positive's own correction
        scores = torch.cat([(positive - zero)[None], corrected(logits, p, entities, explicit, power) - zero])
        return -scores.log_softmax(0)[0]

    assert_equal(computed(Popularity(power), row_chunk=row_chunk), by_anchor(term))


def test_several_positives_count_with_their_mean():
    strategy = given(Popularity())
    block = LogitBlock(torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1), torch.ones(1, 1).bool(), 1.0)
    ids = {"positive_ids": torch.tensor([[USERS + 1, USERS + 5]]), "col_ids": torch.tensor([USERS + 2])}
    expected = (log_q(USERS + 1) + log_q(USERS + 5)) / 2 - log_q(USERS + 2)
    torch.testing.assert_close(strategy.weights(block._replace(**ids)), expected.view(1, 1))


def test_a_positive_that_is_present_has_the_gradient_of_the_authors_loss():
    """Of mean sg(1 - P) (log sum e^l (1 - q_p) / q_j - l_p), with P over the positive and n drawn negatives."""

    def term(positive, logits, i, p, entities, explicit):
        scores = logits + torch.tensor(1 - share(p), dtype=torch.float64).log()
        scores = scores - torch.stack([log_q(e) for e in entities])
        z = scores.exp().mean()
        weight = (1 - positive.exp() / (positive.exp() + z)).detach()
        return weight * (scores.logsumexp(0) - positive)

    ours, authors = computed(Popularity(positive="present"), further=False), by_anchor(term, further=False)
    assert_equal([ours[1]], [authors[1]])


def test_a_positive_in_all_pairs_that_is_present_leaves_finite_weights():
    for pairs in range(2, 40):  # log E - log E of float32 and float64 is not always 0
        strategy = Popularity(positive="present")
        strategy.on_data(SimpleNamespace(users=pairs, items=2, pairs=torch.tensor([[u, 0] for u in range(pairs)])))
        block = LogitBlock(torch.zeros(1, 1), torch.zeros(1), torch.ones(1, 1).bool(), 1.0)
        ids = {"positive_ids": torch.tensor([[pairs]]), "col_ids": torch.tensor([pairs + 1])}
        assert strategy.weights(block._replace(**ids)).isfinite().all()


def in_a_chain(term):
    """The term of logits that known and popularity left."""

    def of_corrected(positive, logits, i, p, entities, explicit):
        keep = torch.tensor([(i, e) not in pair_set() for e in entities])
        return term(positive, corrected(logits, p, entities, explicit)[keep])

    return by_anchor(of_corrected)


TERMS = {
    "known, popularity": ([], lambda positive, left: F.softplus(left.logsumexp(0) - positive)),
    "hardest": ([Hardest()], lambda positive, left: F.softplus(left.max() - positive)),
    "topk": ([TopK(3)], lambda positive, left: F.softplus(left.topk(min(3, len(left))).values.logsumexp(0) - positive)),
    "annulus": (
        [Annulus(0.0, 0.5)],
        lambda positive, left: F.softplus(left.sort().values[len(left) // 2 :].logsumexp(0) - positive),
    ),
    "tilt": ([Tilt(0.7, "none")], lambda positive, left: F.softplus((1.7 * left).logsumexp(0) - positive)),
    "tilt twice": (
        [Tilt(0.7, "none"), Tilt(0.2, "none")],  # what a tilt adds is no correction
        lambda positive, left: F.softplus((1.9 * left).logsumexp(0) - positive),
    ),
    "semi_hard": (
        [SemiHard(0.9)],
        lambda positive, left: torch.log1p(
            (left - positive).exp()[(left < positive) & (left > positive - 0.9 / T)].sum()
        ),
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_later_members_of_a_chain_see_corrected_logits(name):
    members, term = TERMS[name]
    expected = in_a_chain(term)
    assert_equal(computed(Chain([Known(), Popularity(), *members])), expected)
    assert_equal(computed(Chain([Chain([Known(), Popularity()]), *members]), row_chunk=5), expected)


def test_the_hooks_of_a_chain_say_what_it_does():
    chain = given(Chain([Known(), Popularity()]))
    block = LogitBlock(torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2).bool(), 1.0)
    ids = {"row_ids": torch.tensor([0]), "positive_ids": torch.tensor([[USERS]])}
    block = block._replace(**ids, col_ids=USERS + torch.tensor([1, 5]))
    assert chain.keep(block).tolist() == [[False, True]]
    torch.testing.assert_close(chain.weights(block), given(Popularity()).weights(block))


# ------------------------------------------------------------------------------------------------------------- random


def rows_of(m: int, n: int, **fields) -> LogitBlock:
    block = LogitBlock(torch.zeros(m, n), torch.zeros(m), torch.ones(m, n).bool(), 1.0)
    return block._replace(row_samples=torch.arange(m), row_views=torch.zeros(m, dtype=torch.int64), **fields)


def test_every_negative_is_drawn_equally_often():
    kept = Random(k=3, seed=5).keep(rows_of(4000, 8)).double()
    assert torch.equal(kept.sum(1), torch.full((4000,), 3.0, dtype=torch.float64))
    assert (kept.mean(0) - 3 / 8).abs().max() < 4 * (3 / 8 * 5 / 8 / 4000) ** 0.5
    both = (kept[:, :1] * kept[:, 1:]).mean(0)  # k (k - 1) / n (n - 1)
    assert (both - 6 / 56).abs().max() < 4 * (6 / 56 * 50 / 56 / 4000) ** 0.5
    neighbors = (kept[1:] * kept[:-1]).mean(0)  # rows are independent of one another
    assert (neighbors - 9 / 64).abs().max() < 5 * (9 / 64 * 55 / 64 / 4000) ** 0.5


def test_flat_draws_in_proportion_to_one_over_popularity():
    """Items 1, 2, 5 and 1 again; the last two are an explicit negative, drawn uniformly, and one that is not known."""
    items = USERS + torch.tensor([1, 2, 5, 1, 1])
    columns = torch.cat([items[:4], torch.tensor([-1]), items[4:]])
    rates = torch.tensor([1 / share(e) for e in items[:4].tolist()] + [ITEMS, ITEMS])
    kept = given(Random(flat=True)).keep(rows_of(8000, 6, col_ids=columns, explicit=(1, 1))).double()
    expected = rates / rates.sum()
    assert ((kept.mean(0) - expected).abs() < 4 * (expected * (1 - expected) / 8000).sqrt()).all()


def test_draws_differ_by_sample_view_batch_and_seed_and_come_back_with_the_state():
    strategy, block = Random(k=4), rows_of(3, 64)
    first = strategy.keep(block)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[1:], strategy.keep(block._replace(  # a block of rows draws what they draw among all
        negative=block.negative[1:], row_samples=torch.tensor([1, 2]), row_views=block.row_views[1:])))  # fmt: skip
    others = [strategy.keep(block._replace(row_views=block.row_views + 1)), Random(k=4, seed=2).keep(block)]
    state = {name: value.clone() for name, value in strategy.state_dict().items()}
    strategy.advance()
    others.append(strategy.keep(block))
    assert all((first != other).any(1).all() for other in others)
    strategy.load_state_dict(state)
    assert torch.equal(strategy.keep(block), first)


def test_where_there_are_fewer_all_are_kept():
    block = rows_of(2, 4)._replace(negative=torch.tensor([[False, True, False, False], [False] * 4]))
    for strategy in (Random(k=3), given(Random(k=3, flat=True)), Random(k=9)):
        kept = strategy.keep(block._replace(col_ids=torch.arange(4)))
        assert torch.equal(kept, block.negative)


def test_one_random_negative_is_bpr():
    strategy, seen = Random(), []
    keep = strategy.keep
    strategy.keep = lambda block: (lambda kept: seen.append(kept) or kept)(keep(block))
    ours = computed(strategy, further=False)
    assert [kept.sum(1).tolist() for kept in seen] == [[1] * N] * 2

    def bpr(z):
        unit, terms = F.normalize(z, dim=-1), []
        for view, kept in enumerate(seen):
            for s, j in enumerate(kept.long().argmax(1).tolist()):
                difference = unit[view, s] @ (unit[1 - view, s] - unit[1 - view, j]) / T
                terms.append(-F.logsigmoid(difference))
        return torch.stack(terms).mean()

    assert_equal(ours, value_and_gradient(bpr, batch()))


def test_the_hardest_of_some_random_ones_is_dynamic_negative_sampling():
    drawn = Random(k=3)
    ours, seen = computed(Chain([drawn, Hardest()]), further=False), []
    loss = make("infonce", Chain([drawn]), temperature=T, row_chunk=None)
    weigh = loss.negatives.weigh
    loss.negatives.weigh = lambda block: (lambda out: seen.append(out.negative) or out)(weigh(block))
    loss(batch(), ids=IDS)

    def dns(z):
        unit, terms = F.normalize(z, dim=-1), []
        for view, kept in enumerate(seen):
            for s in range(N):
                scores = unit[view, s] @ unit[1 - view].T / T
                terms.append(F.softplus(scores[kept[s]].max() - scores[s]))
        return torch.stack(terms).mean()

    assert_equal(ours, value_and_gradient(dns, batch()))


# -------------------------------------------------------------------------------------------------- what goes together

STRATEGIES = {"known": Known, "popularity": Popularity, "flat": lambda: Random(flat=True)}


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_missing_is_named(name):
    strategy = STRATEGIES[name]()
    with pytest.raises(ValueError, match=f"negatives.*{name}.* pairs"):
        make("infonce", strategy)(batch(), ids=IDS)
    for other in (DataInfo(6), InteractionInfo(6, users=2, items=2)):
        with pytest.raises(ValueError, match=f"negatives.*{name}.* is for pairs of users and items"):
            give_info(Chain([strategy]), other)
    with pytest.raises(ValueError, match="call the loss with ids"):
        make("infonce", given(strategy))(batch())


def test_power_can_be_annealed():
    strategy, block = given(Popularity()), rows_of(1, 2, col_ids=torch.tensor([5, 6]), positive_ids=torch.tensor([[4]]))
    whole = strategy.weights(block)
    Anneal({"negatives.power": [1.0, 0.0]}, epochs=4, shape="linear").apply({"negatives": strategy}, 1, 100)
    torch.testing.assert_close(strategy.weights(block), 0.75 * whole)


def test_popularity_refuses_the_catalog():
    block = rows_of(1, 2, col_ids=torch.tensor([5, 6]), positive_ids=torch.tensor([[4]]), catalog=2)
    with pytest.raises(ValueError, match=r"loss\.candidates=catalog"):
        given(Popularity()).weights(block)


@pytest.mark.parametrize(
    ("impossible", "word"),
    [
        (lambda: Popularity(-1.0), "power"),
        (lambda: Popularity(float("nan")), "power"),
        (lambda: Popularity(positive="absent"), "positive"),
        (lambda: Random(0), "k"),
        (lambda: Random(2.0), "k"),
    ],
)
def test_impossible_options_are_named(impossible, word):
    with pytest.raises(ValueError, match=rf"negatives\.{word}"):
        impossible()


def test_tables_are_in_no_checkpoint():
    strategies = given(Chain([Known(), Popularity(), Random(flat=True)]))
    assert set(strategies.state_dict()) == {"strategies.2.batches"}
    assert [name for name, _ in strategies.named_buffers()] == ["strategies.2.batches"]


def test_a_gpu_does_not_wait():
    """On fake tensors of a GPU: whoever asks for a value fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    loss = make("infonce", given(Chain([Known(), Popularity(), Random(2, flat=True), Random(1)]))).float()
    with FakeTensorMode(allow_non_fake_inputs=True):
        z = torch.empty(2, N, 5, device="cuda", requires_grad=True)
        value = loss(z, ids=torch.zeros(2, N, dtype=torch.int64, device="cuda"))
        assert value.requires_grad


# ------------------------------------------------------------------------------------------ losses of recommendation


def test_margin_cosine_is_the_cosine_contrastive_loss_of_simplex():
    """1 - cos(u, i) + w / n sum_j max(0, cos(u, j) - m)."""

    def ccl(positive, logits, i, p, entities, explicit):
        return 1 - T * positive + 150 / len(logits) * (T * logits - 0.4).relu().sum()

    changes = {"weight": 150.0, "negative_margin": 0.4, "candidates": "cross"}
    assert_equal(computed(None, "margin_cosine", **changes), by_anchor(ccl))
    assert_equal(computed(None, "margin_cosine", row_chunk=4, **changes), by_anchor(ccl))


@pytest.mark.parametrize("repeated", [False, True])
def test_align_uniform_is_directau(repeated):
    """Alignment + gamma (unif_u + unif_i) / 2, over pairs of different samples (torch.pdist in the authors' code).

    Pairs of samples that show the same user, or item, are left out here; there they count with a distance of 0.
    """
    gamma = 0.5
    ids = IDS if repeated else torch.stack([torch.arange(N), torch.arange(N, 2 * N)])

    def directau(z):
        unit, spread = F.normalize(z, dim=-1), []
        for x, shown in zip(unit, ids.tolist(), strict=True):
            apart = [(j, k) for j in range(N) for k in range(j) if shown[j] != shown[k]]
            spread.append(torch.stack([(-2 * (x[j] - x[k]).square().sum()).exp() for j, k in apart]).mean().log())
        return (unit[0] - unit[1]).square().sum(1).mean() + gamma * (spread[0] + spread[1]) / 2

    loss = make("align_uniform", weight=gamma)
    assert_equal(value_and_gradient(loss, batch(), ids=ids), value_and_gradient(directau, batch()))
