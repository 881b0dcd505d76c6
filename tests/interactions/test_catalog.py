"""loss.candidates=catalog: the exact softmax over all items."""

import pytest
import torch
import torch.nn.functional as F
from conftest import options
from hydra.errors import InstantiationException
from loss_cases import NO_NEGATIVES, make, node

from repel.losses import InfoNCE, Joint, NTXent, negative_weights
from repel.negatives import Strategy

USERS, ITEMS, DIM = 5, 9, 4
PAIRS = torch.tensor([[0, 3], [0, 5], [1, 3], [2, 8], [4, 0], [2, 8]])  # a user, an item and a pair that repeat
IDS = torch.stack([PAIRS[:, 0], USERS + PAIRS[:, 1]])
CATALOG_IDS = USERS + torch.arange(ITEMS)
EXACT = {"candidates": "catalog", "symmetric": False}


def tables(seed: int = 0) -> list[torch.Tensor]:
    """Embeddings of all users and of all items."""
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(n, DIM, generator=draws, dtype=torch.float64).requires_grad_() for n in (USERS, ITEMS)]


def batch_of(users, items):
    return torch.stack([users[PAIRS[:, 0]], items[PAIRS[:, 1]]])


def arguments(items):
    return {"ids": IDS, "catalog": items, "catalog_ids": CATALOG_IDS}


@pytest.mark.parametrize("row_chunk", [None, 2, "auto"])
def test_is_the_softmax_over_all_items(row_chunk):
    """L = mean over pairs (u, p) of -log( e^{s_up / t} / sum over all items j of e^{s_uj / t} )."""
    users, items = tables()
    ours = InfoNCE(temperature=0.3, row_chunk=row_chunk, **EXACT)(batch_of(users, items), **arguments(items))
    logits = F.normalize(users, dim=-1)[PAIRS[:, 0]] @ F.normalize(items, dim=-1).T / 0.3
    expected = F.cross_entropy(logits, PAIRS[:, 1])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    both = [torch.autograd.grad(value, [users, items]) for value in (ours, expected)]
    for mine, theirs in zip(*both, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_with_a_target_items_are_the_targets_and_have_no_gradient():
    (users, items), (fixed_users, fixed_items) = tables(), tables(1)
    target = batch_of(fixed_users, fixed_items)
    ours = InfoNCE(temperature=0.3, **EXACT)(batch_of(users, items), target=target, **arguments(fixed_items))
    logits = F.normalize(users, dim=-1)[PAIRS[:, 0]] @ F.normalize(fixed_items.detach(), dim=-1).T / 0.3
    expected = F.cross_entropy(logits, PAIRS[:, 1])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    found = torch.autograd.grad(ours, [users, items, fixed_items], allow_unused=True)
    torch.testing.assert_close(found[0], torch.autograd.grad(expected, users)[0], rtol=1e-10, atol=1e-14)
    assert found[1] is None or not found[1].any()
    assert found[2] is None


def test_dims_cut_the_catalog():
    users, items = tables()
    ours = InfoNCE(dims=[4, 2], **EXACT)(batch_of(users, items), **arguments(items))
    cut = InfoNCE(**EXACT)(batch_of(users, items)[..., :2], **arguments(items[:, :2]))
    torch.testing.assert_close(ours, cut + InfoNCE(**EXACT)(batch_of(users, items), **arguments(items)))


def test_strategies_know_that_the_candidates_are_the_catalog():
    seen = []

    class Watch(Strategy):
        def weights(self, block):
            seen.append(block)

    loss = InfoNCE(negatives=Watch(), **EXACT)
    users, items = tables()
    loss(batch_of(users, items), **arguments(items))
    assert (seen[0].catalog, seen[0].explicit) == (ITEMS, (0, 0))
    assert torch.equal(seen[0].col_ids, CATALOG_IDS)
    assert torch.equal(seen[0].negative, IDS[1][:, None] != CATALOG_IDS)


def test_the_monitor_sees_the_catalog():
    users, items = (table.detach() for table in tables())
    z = batch_of(users, items)
    seen = negative_weights(InfoNCE(**EXACT), z, z, None, IDS, 12, catalog=items, catalog_ids=CATALOG_IDS)
    assert seen.is_negative.sum(1).tolist() == [ITEMS - 1] * 6
    share = (F.normalize(z[0], dim=-1) @ F.normalize(items, dim=-1).T / 0.2).softmax(1)
    torch.testing.assert_close(seen.weight, share.masked_fill(~seen.is_negative, 0))


def test_a_joint_loss_gives_it_to_members_that_compare_with_it():
    users, items = tables()
    z = torch.cat([batch_of(users, items), batch_of(users, items).flip(1)])
    ids = torch.cat([IDS, IDS.flip(1)])
    exact, other = InfoNCE(**EXACT), NTXent()
    loss = Joint({"exact": {"loss": exact, "views": [0, 1]}, "other": {"loss": other, "views": [2, 3]}})
    assert loss.takes_catalog
    expected = exact(z[:2], **arguments(items)) + other(z[2:], ids=ids[2:])
    torch.testing.assert_close(loss(z, ids=ids, catalog=items, catalog_ids=CATALOG_IDS), expected)


REFUSE = {"supcon", "nnclr", "align_uniform"}


@pytest.mark.parametrize("name", [name for name in options("loss") if "candidates" in node("loss", name)])
def test_every_loss_takes_it_or_refuses_it_in_one_line(name):
    if name in REFUSE:
        with pytest.raises(InstantiationException, match=r"loss\.candidates"):
            make(name, **EXACT)
        return
    users, items = tables()
    value = make(name, **EXACT)(batch_of(users, items), **arguments(items))
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(value, [users, items]))
    chunked = make(name, row_chunk=2, **EXACT)(batch_of(users, items), **arguments(items))
    torch.testing.assert_close(chunked, value)


@pytest.mark.parametrize(("changes", "queue", "words"), [
    ({"candidates": "catalog"}, 0, "symmetric=false"),
    (EXACT, 8, "leave out queue.size"),
    (EXACT | {"negatives": "popularity"}, 0, "every item once"),
])  # fmt: skip
def test_what_does_not_go_together_is_said(changes, queue, words):
    with pytest.raises(InstantiationException, match=words):
        make("infonce", queue=queue, **changes)


def test_a_call_with_a_catalog_too_many_or_too_few_says_so():
    users, items = tables()
    z = batch_of(users, items)
    for name in ("infonce", *NO_NEGATIVES):
        with pytest.raises(ValueError, match="compares with no catalog"):
            make(name)(z, **arguments(items))
    for loss in (InfoNCE(**EXACT), Joint({"exact": {"loss": InfoNCE(**EXACT)}})):
        with pytest.raises(ValueError, match="does not bring"):
            loss(z, ids=IDS)
    with pytest.raises(ValueError, match="pass ids"):
        InfoNCE(**EXACT)(z, catalog=items, catalog_ids=CATALOG_IDS)
    with pytest.raises(ValueError, match="takes no explicit negatives"):
        InfoNCE(**EXACT)(z, **arguments(items), negatives=z)
