"""Items that views draw as negatives, queues of items, and users among users."""

import pytest
import torch
import torch.nn.functional as F
from item_runs import PLAIN, pair_config, write_pairs
from pair_gradients import BATCH, DIM, INFO, ITEMS, TOTAL, USERS
from runs_here import status
from torch._subclasses.fake_tensor import FakeTensorMode

from repel.data.samples import give_info
from repel.data.views import slice_params
from repel.engine.build import build_data
from repel.interactions.pairs import PairBatch
from repel.interactions.views import PairViews
from repel.losses import InfoNCE, Joint, NTXent, Queue
from repel.negatives import OwnNegatives

IDS = torch.stack([BATCH[:, 0], USERS + BATCH[:, 1]])


def batch_of(nodes: torch.Tensor) -> PairBatch:
    return PairBatch(nodes, USERS, ITEMS)


def table() -> torch.Tensor:
    """Embeddings of all nodes."""
    draws = torch.Generator().manual_seed(0)
    return torch.randn(USERS + ITEMS, DIM, generator=draws, dtype=torch.float64).requires_grad_()


def test_items_are_drawn_uniformly_and_for_the_global_batch():
    views, n = PairViews(negatives=3), 4000
    params = views.draw(n, torch.Generator().manual_seed(0))
    nodes = torch.tensor([[0, USERS]]).expand(n, 2)
    whole = views.apply(batch_of(nodes), params)
    assert whole.negatives.shape == (3, n, 2)
    assert torch.equal(whole.negatives[..., 0], whole.negative_ids)
    assert not whole.negatives[..., 1].any()  # in graph 0
    counts = (whole.negative_ids - USERS).flatten().bincount(minlength=ITEMS)
    assert len(counts) == ITEMS
    expected = 3 * n / ITEMS
    assert ((counts - expected).abs() < 5 * expected**0.5).all()
    part = slice(1000, 1500)
    mine = views.apply(batch_of(nodes[part]), slice_params(params, part))
    assert torch.equal(mine.negative_ids, whole.negative_ids[:, part])
    assert (
        views.apply(batch_of(nodes[:1]), [{}, {}, {"negatives": torch.ones(1, 3)}]).negative_ids.max() < USERS + ITEMS
    )


def test_without_them_views_are_as_before():
    views = PairViews()
    params = views.draw(2, torch.Generator())
    assert params == [{}, {}]
    assert views.apply(batch_of(IDS.T[:2]), params)[1:3] == (None, None)


@pytest.mark.parametrize("drawn", [1, 3])
def test_bpr(drawn):
    """Rendle et al. 2009, sec. 4.1, for cosines: L = mean over (u, p) of softplus((s_uj - s_up) / t), j drawn for it;
    of more than one, log(1 + sum over j of e^((s_uj - s_up) / t)). A draw that is p itself is none."""
    nodes, t = table(), 0.3
    views = PairViews(negatives=drawn)
    viewed = views.apply(batch_of(IDS.T), views.draw(TOTAL, torch.Generator().manual_seed(2)))
    ids = viewed.negative_ids.clone()
    ids[0, 3] = IDS[1, 3]
    loss = InfoNCE(temperature=t, symmetric=False, negatives=OwnNegatives(only=True))
    ours = loss(nodes[IDS], ids=IDS, negatives=nodes[ids], negative_ids=ids)
    unit, terms = F.normalize(nodes, dim=-1), []
    for place, (user, item) in enumerate(IDS.T.tolist()):
        others = [unit[user] @ (unit[j] - unit[item]) / t for j in ids[:, place].tolist() if j != item]
        terms.append(torch.stack([torch.zeros((), dtype=torch.float64), *others]).logsumexp(0))
        if drawn == 1 and others:
            torch.testing.assert_close(terms[-1], F.softplus(others[0]))
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    mine, theirs = (torch.autograd.grad(value, nodes)[0] for value in (ours, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_a_queue_of_pairs_keeps_items_alone():
    """Cross-batch negatives: with symmetric=true users would be compared with users of before."""
    with pytest.raises(ValueError, match=r"queue.*loss\.symmetric=false"):
        give_info(InfoNCE(queue=Queue(8, DIM)), INFO)
    with pytest.raises(ValueError, match=r"loss\.symmetric=false"):
        give_info(Joint({"pair": {"loss": InfoNCE(queue=Queue(8, DIM))}}), INFO)
    loss = InfoNCE(temperature=0.3, symmetric=False, queue=Queue(5, DIM)).double()
    give_info(loss, INFO)
    z = table().detach()[IDS]
    loss.update(z, None, IDS)
    past, shown, _ = loss.queue.entries()
    assert sorted(shown.tolist()) == sorted((USERS + BATCH[-5:, 1]).tolist())
    unit = F.normalize(z, dim=-1)
    terms = []
    for place in range(TOTAL):
        candidates = [*zip(unit[1], IDS[1].tolist(), strict=True), *zip(past, shown.tolist(), strict=True)]
        logits = [unit[0, place] @ key / 0.3 for key, entity in candidates if entity != IDS[1, place]]
        positive = unit[0, place] @ unit[1, place] / 0.3
        terms.append(torch.stack([positive, *logits]).logsumexp(0) - positive)
    torch.testing.assert_close(loss(z, ids=IDS), torch.stack(terms).mean(), rtol=1e-12, atol=0)


def test_users_may_be_negatives_of_users_and_items_of_items():
    """candidates=all: both kinds are candidates of both, less what is the anchor's own."""
    z = table().detach()[IDS]
    unit, entities = F.normalize(z, dim=-1).flatten(0, 1), IDS.flatten()
    terms = []
    for anchor in range(2 * TOTAL):
        place = anchor % TOTAL
        other = [j for j in range(2 * TOTAL) if entities[j] not in IDS[:, place]]
        positive = unit[anchor] @ unit[(anchor + TOTAL) % (2 * TOTAL)] / 0.2
        terms.append(torch.cat([positive[None], unit[other] @ unit[anchor] / 0.2]).logsumexp(0) - positive)
    loss = NTXent(temperature=0.2)
    give_info(loss, INFO)
    torch.testing.assert_close(loss(z, ids=IDS), torch.stack(terms).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("typed", "words"), [pytest.param(*case, marks=() if number % 3 == 0 else pytest.mark.slow)
                                              for number, case in enumerate((
    ("negatives=own_negatives", ["explicit negatives", "none"]),
    ("views.negatives=1 loss=nnclr", ["NNCLR", "explicit negatives"]),
    ("views.negatives=1 loss.candidates=catalog loss.symmetric=false", ["explicit negatives"]),
    ("views.negatives=-1", ["views.negatives"]),
    ("queue.size=8", ["loss.symmetric=false"]),
    ("loss.candidates=catalog", ["loss.symmetric=false"]),
    ("loss.candidates=catalog loss.symmetric=false views.catalog=false", ["loss.candidates=catalog"]),
    ("views.catalog=true", ["views.catalog=true", "loss.candidates=catalog"]),
    ("loss=joint", ["labels"]),
    ("loss=joint loss.members.labels=null loss.members.samples.views=[0,2]", ["loss.members.samples.views", "2 views"]),
))])  # fmt: skip
def test_mistakes_are_one_line_before_training(tmp_path, typed, words):
    code, line = status(tmp_path / "run", *PLAIN, *write_pairs(tmp_path / "log"), *typed.split())
    assert code == 2, line
    assert "\n" not in line
    assert all(word in line for word in words), line
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_views_draw_is_in_what_parts_are_told(tmp_path):
    data = build_data(pair_config(write_pairs(tmp_path / "log"), "views.negatives=3"))
    data.setup()
    assert data.info().negatives == 3
    assert (data.info().users, data.splits.train.info().negatives) == (40, 0)


@pytest.mark.parametrize("loss", [
    InfoNCE(candidates="catalog", symmetric=False),
    InfoNCE(negatives=OwnNegatives(only=True)),
    Joint({"exact": {"loss": InfoNCE(candidates="catalog", symmetric=False)}, "all": {"loss": NTXent()}}),
], ids=["catalog", "drawn", "joint"])  # fmt: skip
def test_a_step_does_not_wait_for_the_host(loss):
    """On fake tensors of a GPU: whoever asks for a value fails."""
    options = {"catalog": loss.takes_catalog, "negatives": 2 * loss.takes_negatives}
    with FakeTensorMode():
        nodes = torch.zeros(TOTAL, 2, dtype=torch.int64, device="cuda")
        views = PairViews(**options)
        viewed = views.apply(batch_of(nodes), views.draw(TOTAL, torch.Generator()))
        table = torch.empty(USERS + ITEMS, DIM, device="cuda", requires_grad=True)
        embed = lambda x: None if x is None else table[x[..., 0]]  # noqa: E731
        ids = {"ids": viewed.ids, "negative_ids": viewed.negative_ids, "catalog_ids": viewed.catalog_ids}
        further = {"negatives": embed(viewed.negatives), "catalog": embed(viewed.catalog)}
        value = loss.train()(embed(viewed.views), **ids, **further)
        assert value.device.type == "cuda"
        assert value.requires_grad
