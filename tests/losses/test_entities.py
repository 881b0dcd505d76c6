"""A candidate that shows an entity of the anchor's own sample is not a negative: every loss with every strategy.

In the batch, in the queue, for crops and among explicit negatives. test_distributed.py has the same over ranks.
"""

import pytest
import torch
import torch.nn.functional as F
from loss_cases import DIM, LABELS, NO_NEGATIVES, ROWWISE, assert_equal, batch, covering, make

from repel.losses import LogRatioLoss
from repel.losses.base import Batch, unit

IDS = torch.tensor([10, 11, 12, 13, 10, 15])  # sample 4 shows what sample 0 shows
FIRST, COPY = 0, 4
FAR = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
CASES = [pair for pair in ROWWISE if pair[0] != "align_uniform"]  # a mean over pairs, not over anchors
FEWER = covering(CASES)
# in blocks of rows each loss and each strategy: test_losses.py compares the two forms of every pair
EVERY = pytest.mark.parametrize(
    ("pair", "row_chunk"),
    [pytest.param(pair, rows, id=f"{'-'.join(pair)}-{'chunked' if rows else 'dense'}",
                  marks=() if pair in FEWER else pytest.mark.slow)
     for rows in (None, 5) for pair in (FEWER if rows else CASES)],
)  # fmt: skip
# their value of an anchor depends on statistics of the whole batch, or on draws for it, so that a smaller batch is
# another one for them; the test by rotation holds them
OF_THE_WHOLE_BATCH = {"macl", "decoupled_weighted", "mixed", "random"}


def per_anchor(loss, z, ids, labels=None, **further) -> torch.Tensor:
    """(anchors, N): the loss of every sample's anchors, crops included."""
    z = z.clone().requires_grad_()
    labels = LABELS if labels is None else labels
    values = loss.losses(Batch(unit(z), unit(z), labels, ids, slice(None), raw=z, **further))
    return values.detach().reshape(-1, z.shape[1])


def fill(loss, ids):
    """A queue of embeddings with these entities, of a class of their own."""
    past = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    loss.queue.push(F.normalize(past, dim=-1), torch.tensor(ids), torch.full((len(ids),), 9))
    return loss


def made(pair, queue: int = 0, **changes):
    if pair[0] == "macl":
        changes["alpha"] = 0.5
    return make(*pair, queue=queue, **changes)


@EVERY
def test_a_copy_in_the_batch_is_no_negative(pair, row_chunk):
    """Turned to another place with both its views, so that cosines within the sample stay, it changes nothing."""
    loss, z = made(pair, row_chunk=row_chunk), batch().detach()
    turned = z.clone()
    turned[:, COPY] = z[:, COPY] @ FAR
    ids = IDS[None]
    assert_equal([per_anchor(loss, z, ids)[:, FIRST]], [per_anchor(loss, turned, ids)[:, FIRST]])
    distinct = torch.arange(10, 16)[None]
    with_distinct = [per_anchor(loss, x, distinct)[:, FIRST] for x in (z, turned)]
    if pair[1] == "uniform" and isinstance(loss, LogRatioLoss):  # every negative counts
        assert not torch.allclose(*with_distinct)


@EVERY
def test_with_a_copy_the_loss_is_that_of_the_batch_without_it(pair, row_chunk):
    if OF_THE_WHOLE_BATCH & set(pair):
        pytest.skip("of the whole batch")
    loss, z = made(pair, row_chunk=row_chunk), batch().detach()
    both = per_anchor(loss, z, IDS[None])
    for kept, removed in ((FIRST, COPY), (COPY, FIRST)):
        rest = torch.tensor([i for i in range(6) if i != removed])
        alone = per_anchor(loss, z[:, rest], IDS[None, rest], LABELS[rest])
        assert_equal([both[:, kept]], [alone[:, rest.tolist().index(kept)]])


@EVERY
def test_an_own_entity_in_the_queue_is_no_negative(pair, row_chunk):
    loss = made(pair, queue=8, row_chunk=row_chunk)
    if not loss.compares_queue:
        pytest.skip("its queue holds positives")
    if OF_THE_WHOLE_BATCH & set(pair):
        pytest.skip("draws depend on the number of candidates")
    z, ids = batch().detach(), torch.arange(10, 16)[None]
    with_own = per_anchor(fill(loss, [30, 31, 10, 32]), z, ids)
    without = made(pair, queue=8, row_chunk=row_chunk)
    fill(without, [30, 31, 10, 32])
    keep = torch.tensor([0, 1, 3])
    entries = without.queue.entries()
    without.queue.entries = lambda: tuple(entry[keep] for entry in entries)
    assert_equal([with_own[:, FIRST]], [per_anchor(without, z, ids)[:, FIRST]])


@EVERY
def test_an_own_entity_among_explicit_negatives_is_no_negative(pair, row_chunk):
    """It shows what the anchor's second view shows. With it and without it, for anchors and for crops."""
    loss = made(pair, row_chunk=row_chunk)
    if not loss.takes_negatives:
        pytest.skip("it takes no explicit negatives")
    if OF_THE_WHOLE_BATCH & set(pair):
        pytest.skip("draws depend on the number of candidates")
    z, ids = batch().detach(), torch.arange(10, 22).view(2, 6)
    crops = {"crops": unit(batch(1, seed=2).detach())} if loss.takes_crops else {}
    negatives, negative_ids = unit(batch(2, seed=3).detach()), torch.arange(40, 52).view(2, 6)
    negative_ids[0, 3] = ids[1, FIRST]

    def value(chosen):
        return per_anchor(loss, z, ids, negatives=negatives.flatten(0, 1)[chosen][None],
                          negative_ids=negative_ids.flatten()[chosen][None], **crops)  # fmt: skip

    everything, without = torch.arange(12), torch.tensor([i for i in range(12) if i != 3])
    assert_equal([value(everything)[:, FIRST]], [value(without)[:, FIRST]])


def test_explicit_negatives_are_candidates_of_every_anchor():
    """NT-Xent by its equation: Z has the other samples' views and all explicit negatives."""
    z, negatives, t = batch().detach(), batch(1, seed=4).detach(), 0.5
    keys, more = unit(z).flatten(0, 1), unit(negatives).flatten(0, 1)
    logits = keys @ torch.cat([keys, more]).T / t
    losses = []
    for i in range(12):
        positive = logits[i, (i + 6) % 12]
        others = [j for j in range(18) if j >= 12 or j % 6 != i % 6]
        losses.append(torch.cat([logits[i, others], positive[None]]).logsumexp(0) - positive)
    value = make("ntxent", temperature=t)(z, negatives=negatives)
    torch.testing.assert_close(value, torch.stack(losses).mean())


@pytest.mark.parametrize("candidates", ["same", "cross", "all", "queue"])
@pytest.mark.parametrize("memory", ["batch", "queue", "negatives"])
def test_uniformity_is_a_mean_over_pairs_of_different_entities(memory, candidates):
    loss, z = make("align_uniform", queue=4, row_chunk=5, candidates=candidates), batch(3).detach()
    further, further_ids, arguments = torch.zeros(0, DIM, dtype=torch.float64), torch.zeros(0), {}
    if memory == "queue":
        further, further_ids, _ = (entry.clone() for entry in fill(loss, [10, 31, 11]).queue.entries())
    if memory == "negatives":
        explicit, further_ids = batch(1, seed=4).detach(), torch.tensor([40, 10, 41, 42, 12, 43])
        further, arguments = unit(explicit[0]), {"negatives": explicit, "negative_ids": further_ids[None]}
    uniformity, views = [], unit(z)
    for v, view in enumerate(views):
        chosen = {"same": [v], "cross": [u for u in range(3) if u != v], "all": range(3), "queue": []}[candidates]
        compared = torch.cat([*(views[u] for u in chosen), further])
        different = IDS[:, None] != torch.cat([*(IDS for _ in chosen), further_ids])
        potentials = ((view @ compared.T - 1) / loss.temperature)[different].exp()
        uniformity.append(potentials.mean().log() if len(potentials) else torch.zeros(()))
    alignment = torch.stack([(views[a] - views[b]).square().sum(-1).mean() for a, b in ((0, 1), (0, 2), (1, 2))]).mean()
    torch.testing.assert_close(loss(z, ids=IDS, **arguments), alignment + torch.stack(uniformity).mean())
    if memory == "batch":  # without ids every sample is an entity of its own
        torch.testing.assert_close(loss(z), loss(z, ids=torch.arange(6)))


@pytest.mark.parametrize("name", [*sorted(NO_NEGATIVES), "nnclr"])
def test_a_loss_that_takes_no_explicit_negatives_says_so(name):
    with pytest.raises(ValueError, match="takes no explicit negatives"):
        make(name)(batch(), negatives=batch(1))


@pytest.mark.parametrize("pair", FEWER)
def test_ids_for_all_views_or_for_each(pair):
    """(N,) stands for the same row V times."""
    z, values = batch(3).detach(), []
    for ids in (IDS, IDS.expand(3, -1)):
        values.append(made(pair)(z, labels=LABELS, ids=ids))
    assert_equal(values[:1], values[1:])
