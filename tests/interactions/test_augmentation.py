"""LightGCN's augmented graphs: each against dense matrices and loops; the same on every rank; nothing waits."""

import re

import pytest
import tiny_graphs
import torch
from conftest import config
from tiny_graphs import ITEMS, NODES, USERS
from torch import Tensor

from repel.base.dropout import DrawCounters, counted_parts, give_counters
from repel.data.samples import give_info
from repel.engine.build import build_module
from repel.interactions import lightgcn
from repel.interactions.augmentation import add_noise, kept
from repel.interactions.lightgcn import LightGCN
from repel.interactions.pairs import InteractionInfo

EDGES = sorted(tuple(pair) for pair in tiny_graphs.pairs().tolist())  # as the encoder numbers them
EPS = 0.3


def training(augment: str, **options) -> LightGCN:
    """In training, at some step."""
    encoder = tiny_graphs.told(LightGCN(5, 2, augment=augment, **options))
    give_counters(counted_parts(encoder), DrawCounters(key=2**62 + 11, samples=4))
    return encoder


def mean(found: list[Tensor], first: bool = True) -> Tensor:
    return torch.stack(found if first else found[1:]).mean(0)


def drawn(encoder: LightGCN, graph: int) -> list[tuple[int, int]]:
    """The edges that are left."""
    if encoder.augment == "edges":
        left = kept(encoder.key, graph, len(EDGES), encoder.rate).tolist()
        return [edge for edge, is_left in zip(EDGES, left, strict=True) if is_left]
    left = kept(encoder.key, graph, NODES, encoder.rate).tolist()
    return [(user, item) for user, item in EDGES if left[user] and left[USERS + item]]


def noise(encoder: LightGCN, graph: int):
    """What is added to a layer, vector by vector."""

    def add(x: Tensor, layer: int) -> Tensor:
        found = add_noise(encoder.key, graph, EPS)(torch.ones_like(x), layer)
        signs = [[(value > 0) - (value < 0) for value in row] for row in x.tolist()]
        return torch.tensor(signs) * found

    return add


def expected(encoder: LightGCN) -> list[Tensor]:
    """(nodes, F) of each graph."""
    weight, whole = encoder.vectors.weight, tiny_graphs.dense(EDGES)
    clean = mean(tiny_graphs.layers(weight, whole, 2), first=bool(encoder.mean[0]))
    if encoder.augment == "noise":
        noisy = [tiny_graphs.layers(weight, whole, 2, noise(encoder, graph)) for graph in (1, 2)]
        return [clean, *(mean(found, first=False) for found in noisy)]
    if encoder.augment == "layers":
        found = tiny_graphs.layers(weight, whole, 2, noise(encoder, 1))
        return [mean(found, first=False), found[encoder.contrast.index(1)]]
    parts = [tiny_graphs.layers(weight, tiny_graphs.dense(drawn(encoder, graph)), 2) for graph in (1, 2)]
    return [clean, *map(mean, parts)]


CASES = {
    "edges": {"rate": 0.4},
    "nodes": {"rate": 0.3},
    "noise": {"noise": EPS, "first_layer": False},
    "layers": {"noise": EPS, "first_layer": False, "contrast_layer": 1},
    "layers, the last": {"noise": EPS, "first_layer": False, "contrast_layer": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_each_graph_is_that_of_dense_matrices_in_value_and_gradient(case):
    encoder = training(case.split(",")[0], **CASES[case])
    weight, graphs = encoder.vectors.weight, range(encoder.graphs + 1)
    theirs = torch.cat([table[tiny_graphs.nodes(0)[:, 0]] for table in expected(encoder)])
    ours = encoder(tiny_graphs.nodes(*graphs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    factors = torch.linspace(1, 2, len(ours))[:, None]  # so that the graphs' gradients differ
    gradients = [torch.autograd.grad((factors * h**3).sum(), weight)[0] for h in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    each = ours.detach().unflatten(0, (len(graphs), -1))
    assert all(not torch.equal(each[a], each[b]) for a in graphs for b in graphs if a < b)


@pytest.mark.parametrize("augment", ["edges", "nodes"])
def test_each_edge_or_node_is_left_out_as_often_as_asked(augment):
    key = torch.tensor(5)
    for graph in (1, 2):
        share = kept(key, graph, 40_000, rate=0.1).double().mean()
        assert abs(share - 0.9) < 5 * (0.09 / 40_000) ** 0.5
    both = (kept(key, 1, 40_000, 0.1) & kept(key, 2, 40_000, 0.1)).double().mean()
    assert abs(both - 0.81) < 5 * (0.81 * 0.19 / 40_000) ** 0.5, "the graphs are independent"
    encoder = training(augment, rate=0.0)
    tables = encoder.tables()
    assert torch.equal(tables[0], tables[1])


def test_noise_has_the_sign_of_its_vector_its_length_and_the_direction_of_a_point_in_a_cube():
    x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0] = 0
    found = [add_noise(torch.tensor(5), graph, EPS)(x, layer) for graph, layer in ((1, 1), (1, 2), (2, 1))]
    assert all(not each[0].any() and torch.equal(each.sign(), x.sign()) for each in found)
    for each in found:
        torch.testing.assert_close(each[1:].norm(dim=1), torch.full((2999,), EPS, dtype=torch.float64))
    cube = torch.rand(3000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs, ours = cube / cube.norm(dim=1, keepdim=True), found[0][1:].abs() / EPS
    torch.testing.assert_close(ours.mean(0), theirs.mean(0).mean().expand(6), rtol=0, atol=0.02)
    torch.testing.assert_close(ours.std(0), theirs.std(0).mean().expand(6), rtol=0, atol=0.02)
    together = torch.corrcoef(torch.stack([each[1:].abs().flatten() for each in found]))
    assert (together - torch.eye(3)).abs().max() < 0.04, "graphs and layers are independent"


@pytest.mark.parametrize("augment", ["edges", "nodes", "noise", "layers"])
def test_a_graph_is_of_the_step_and_not_of_the_rank(augment):
    encoder, x = training(augment), tiny_graphs.nodes(1)
    of_step = encoder(x).detach()
    part = counted_parts(encoder)
    give_counters(part, DrawCounters(key=2**62 + 11, samples=2, start=2, view=1))
    encoder.train()  # nothing is kept
    assert torch.equal(encoder(x), of_step)
    give_counters(part, DrawCounters(key=2**62 + 12, samples=4))
    next_step = encoder(x)
    assert not torch.equal(next_step, of_step)
    give_counters(part, None)
    assert not torch.equal(encoder(x), encoder(x)), "on its own, each pass draws"
    twin = torch.nn.ModuleList([training(augment), training(augment)])
    give_counters(counted_parts(twin), DrawCounters(key=2**62 + 11, samples=4))
    assert not torch.equal(twin[0](x), twin[1](x)), "two parts of a network do not draw the same"


def test_a_step_propagates_once_for_all_its_passes(monkeypatch):
    calls: list[int] = []
    propagate = lightgcn.propagate
    monkeypatch.setattr(lightgcn, "propagate", lambda *args: calls.append(1) or propagate(*args))
    encoder, x = training("edges", rate=0.4), tiny_graphs.nodes(0, 1)
    (encoder(x).sum() + (encoder(x) ** 2).sum()).backward()
    assert len(calls) == 1
    (gradient,), weight = [encoder.vectors.weight.grad.clone()], encoder.vectors.weight
    weight.grad = None
    h = encoder(x)
    (h.sum() + (h**2).sum()).backward()
    assert len(calls) == 2, "what a backward pass has used up is not used again"
    torch.testing.assert_close(weight.grad, gradient, rtol=0, atol=1e-12)
    with torch.no_grad():
        weight.mul_(2)
    torch.testing.assert_close(encoder(x), 2 * h, rtol=0, atol=1e-12)


def test_outside_training_there_is_the_training_graph_alone():
    plain, noisy = (tiny_graphs.told(LightGCN(5, 2, augment=augment)) for augment in ("none", "layers"))
    noisy.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(noisy.eval()(tiny_graphs.nodes(0)), plain.eval()(tiny_graphs.nodes(0)))
        assert len(noisy.tables()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "walks"}, "encoder.augment must be one of none, edges, nodes, noise, layers, got 'walks'"),
        ({"rate": 1.0}, "encoder.rate must be at least 0 and below 1, got 1.0"),
        ({"noise": -0.1}, "encoder.noise must be 0 or more, got -0.1"),
        ({"graphs": 0}, "encoder.graphs must be 1 to 127, got 0"),
        ({"contrast_layer": 4}, "encoder.contrast_layer must be 1 to 3, got 4"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LightGCN(4, **options)


SMALL = ["experiment=ssm", "encoder.width=4", "head.out_features=4"]


@pytest.mark.parametrize(
    "encoder", [["table"], ["lightgcn"], ["lightgcn", "encoder.augment=edges", "encoder.graphs=1"]]
)
def test_views_show_no_graph_that_is_not_drawn(encoder):
    with pytest.raises(ValueError, match=r"views\.further shows graph 2, and this encoder draws [01]: choose encoder"):
        build_module(config(*SMALL, f"encoder={encoder[0]}", *encoder[1:], "views=sgl"))


AUGMENTED = {"edges": "sgl", "nodes": "sgl", "noise": "sgl", "layers": "xsimgcl"}


def module(augment: str):
    built = build_module(
        config(*SMALL, "encoder=lightgcn", f"encoder.augment={augment}", f"views={AUGMENTED[augment]}")
    )
    give_info(built, InteractionInfo(18, users=USERS, items=ITEMS, pairs=tiny_graphs.pairs()))
    return built


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("augment", AUGMENTED)
def test_a_step_does_not_wait_for_the_host(augment, device):
    """On fake tensors: whoever asks for a value fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    encoder = module(augment).encoder
    with FakeTensorMode(allow_non_fake_inputs=True):
        own = {key: torch.empty(p.shape, device=device, requires_grad=True) for key, p in encoder.named_parameters()}
        own |= {key: torch.empty(b.shape, dtype=b.dtype, device=device) for key, b in encoder.named_buffers()}
        h = torch.func.functional_call(encoder, own, (torch.zeros(12, 2, dtype=torch.int64, device=device),))
        assert h.device.type == device
        if device == "cpu":  # a backward pass on a GPU that is not there fails
            h.sum().backward()
            assert own["vectors.weight"].grad is not None


@pytest.mark.parametrize("augment", AUGMENTED)
def test_two_ranks_have_the_gradient_of_one(augment):
    """Each with the network of its own, and half of the batch."""
    nodes = [(user, USERS + item) for user, item in EDGES[:8]]
    whole, one, two = (module(augment).double().train() for _ in range(3))
    shown = [(0, 0), (1, 0), *((side, graph) for side in (0, 1) for graph in range(1, whole.encoder.graphs + 1))]
    ids = torch.tensor([[pair[side] for pair in nodes] for side, _ in shown])

    def embeddings(rank, local: slice) -> Tensor:
        give_counters(counted_parts(rank), DrawCounters(11, local.stop - local.start, local.start))
        x = [[pair[side], graph] for side, graph in shown for pair in nodes[local]]
        return rank.encoder(torch.tensor(x)).unflatten(0, (len(shown), -1))

    whole.loss(embeddings(whole, slice(0, 8)), None, ids).backward()
    halves = [slice(0, 4), slice(4, 8)]
    z = torch.cat([embeddings(rank, half) for rank, half in zip((one, two), halves, strict=True)], 1)
    torch.stack([whole.loss(z, None, ids, half) for half in halves]).mean().backward()
    gradient = whole.encoder.vectors.weight.grad
    found = one.encoder.vectors.weight.grad + two.encoder.vectors.weight.grad
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)
    assert gradient.abs().max() > 1e-3
