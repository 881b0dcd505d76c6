"""LightGCN against dense matrices; what it keeps in evaluation; checkpoints; precision."""

import copy
from collections.abc import Callable

import pytest
import tiny_graphs
import torch
import torch.distributed as dist
from conftest import config
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repel.data.samples import give_info
from repel.engine.build import build_module
from repel.interactions import lightgcn
from repel.interactions.lightgcn import LightGCN
from repel.interactions.pairs import InteractionInfo


def features(encoder: nn.Module) -> Tensor:
    return encoder(tiny_graphs.nodes(0))


def expected(weight: Tensor, number: int = 2, first: bool = True) -> Tensor:
    found = tiny_graphs.layers(weight, tiny_graphs.dense(tiny_graphs.pairs().tolist()), number)
    return torch.stack(found if first else found[1:]).mean(0)[tiny_graphs.nodes(0)[:, 0]]


@pytest.mark.parametrize(("number", "first"), [(1, True), (1, False), (3, True), (3, False)])
def test_it_is_the_mean_of_dense_layers_in_value_and_gradient(number, first):
    encoder = tiny_graphs.told(LightGCN(5, number, first))
    weight = encoder.vectors.weight
    ours, theirs = features(encoder), expected(weight, number, first)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((h**3).sum(), weight)[0] for h in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert (theirs[tiny_graphs.USERS] == 0).all() != first, "the last user has no neighbors"


def test_layers_are_at_least_one():
    with pytest.raises(ValueError, match=r"encoder\.layers must be at least 1, got 0"):
        LightGCN(layers=0)


@pytest.fixture
def kept(monkeypatch) -> tuple[LightGCN, list[int]]:
    """In evaluation, having seen all nodes, and a list that grows with each propagation."""
    calls: list[int] = []
    propagate = lightgcn.propagate
    monkeypatch.setattr(lightgcn, "propagate", lambda *args: calls.append(1) or propagate(*args))
    encoder = tiny_graphs.told(LightGCN(5, 2)).eval()
    with torch.no_grad():
        features(encoder)
    assert calls.pop()
    return encoder, calls


@torch.no_grad()
def test_evaluation_propagates_once_for_all_blocks(kept):
    encoder, calls = kept
    for block in tiny_graphs.nodes(0).split(4):
        encoder(block)
    with torch.inference_mode():
        features(encoder)
    assert not calls


def step(encoder: LightGCN) -> None:
    encoder.vectors.weight.grad = torch.ones_like(encoder.vectors.weight)
    torch.optim.Adam(encoder.parameters(), lr=0.1).step()


def load(encoder: LightGCN, assign: bool) -> None:
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    state["vectors.weight"] += 1
    encoder.load_state_dict(state, assign=assign)


def through_data(encoder: LightGCN) -> None:
    encoder.train()
    encoder.vectors.weight.data.mul_(2)  # torch counts no write in this
    encoder.eval()


CHANGES: dict[str, Callable[[LightGCN], object]] = {
    "optimizer": step,
    "in place": lambda encoder: encoder.vectors.weight.add_(1),
    "load": lambda encoder: load(encoder, assign=False),
    "assign": lambda encoder: load(encoder, assign=True),
    "replaced": lambda encoder: setattr(encoder.vectors, "weight", nn.Parameter(encoder.vectors.weight + 1)),
    "rounded": lambda encoder: encoder.half().double(),
    "while training": through_data,
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_what_is_kept_follows_the_weights(kept, change):
    encoder, calls = kept
    before = features(encoder)
    CHANGES[change](encoder)
    torch.testing.assert_close(features(encoder), expected(encoder.vectors.weight), rtol=0, atol=1e-12)
    assert len(calls) == 1
    assert not torch.equal(features(encoder), before)


@torch.no_grad()
def test_what_is_kept_follows_the_graph(kept):
    encoder, _ = kept
    fewer = tiny_graphs.pairs()[:-1]
    encoder.graph.on_data(InteractionInfo(17, users=tiny_graphs.USERS, items=tiny_graphs.ITEMS, pairs=fewer))
    own = tiny_graphs.layers(encoder.vectors.weight, tiny_graphs.dense(fewer.tolist()), 2)
    torch.testing.assert_close(features(encoder)[1:], torch.stack(own).mean(0), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_copy_keeps_nothing_of_the_original(kept):
    encoder, _ = kept
    other = copy.deepcopy(encoder)
    other.vectors.weight.zero_()
    assert not features(other).any()
    assert features(encoder).any()


def test_evaluation_with_gradients_has_them(kept):
    encoder, _ = kept
    features(encoder).sum().backward()
    assert encoder.vectors.weight.grad is not None


@torch.no_grad()
def test_a_checkpoint_is_enough(kept):
    encoder, _ = kept
    other = LightGCN(5, 2).double()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(features(other.eval()), features(encoder))
    assert other.graph.columns.dtype == torch.int32, "4 bytes an edge and direction"


@pytest.mark.parametrize("halved", ["autocast", "weights"])
def test_propagation_is_float32_where_all_else_is_half(halved):
    encoder = LightGCN(5, 2)
    give_info(encoder, tiny_graphs.info())
    if halved == "weights":
        encoder.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=halved == "autocast"):
        found = features(encoder)
        found.float().sum().backward()
    weight = encoder.vectors.weight
    assert found.dtype == weight.dtype == weight.grad.dtype
    tolerance = 1e-6 if halved == "autocast" else 2**-8
    torch.testing.assert_close(found.double(), expected(weight.double()), rtol=tolerance, atol=1e-6)


def test_ranks_send_one_another_no_graph():
    module = build_module(config("experiment=recommendation", "encoder=lightgcn", "encoder.width=4"))
    module.give_data_info(tiny_graphs.info())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sent = DistributedDataParallel(module).modules_buffers
    finally:
        dist.destroy_process_group()
    own = {buffer.data_ptr() for buffer in module.encoder.graph.buffers()}
    assert len(own) == 2
    assert not own & {buffer.data_ptr() for buffer in sent}
