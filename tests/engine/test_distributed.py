"""W ranks of B take the gradient of one rank of W*B: real processes, gloo, float64, every loss with every strategy."""

from pathlib import Path

import pytest
import torch
from conftest import made_once
from loss_cases import CHOSEN, FEWER, name_of
from rank_gradients import SHAPES, Network, data, normalized, ranks_main
from ranks import forked

from repel.base.collectives import gather
from repel.engine.batch_norm import CrossRankBatchNormSync, has_unsynced_batch_norm

WORLDS = {"two": 2, "four": 4}
CASES = pytest.mark.parametrize(  # every pair on two ranks, each loss and strategy on four, too
    ("ranks", "pair", "memory"),
    [pytest.param(world, *case, id=f"{world}-{name_of(*case)}",
                  marks=() if world == "two" and case in FEWER else pytest.mark.slow)
     for world in WORLDS for case in (CHOSEN if world == "two" else sorted(FEWER))],
    indirect=["ranks"],
)  # fmt: skip


@pytest.fixture(scope="session", params=["two", pytest.param("four", marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    world = WORLDS[request.param]

    def make(folder: Path) -> Path:
        chosen = [item.callspec.params for item in request.session.items if "ranks" in item.fixturenames]
        cases = {(of["pair"], of["memory"]) for of in chosen if "pair" in of and of["ranks"] == request.param}
        process = forked(ranks_main, world, str(folder), sorted(cases))
        process.start()
        process.join(200)
        assert process.exitcode == 0
        return folder

    folder = made_once(tmp_path_factory, f"ranks{world}", make)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@CASES
def test_gradient_of_several_ranks_is_that_of_one(ranks, pair, memory):
    net = Network(pair, memory)
    samples, labels, ids, target = data()
    value = net(samples, labels, ids, target if memory else None, slice(None))
    value.backward()
    values = torch.stack([rank[pair, memory][0] for rank in ranks])
    torch.testing.assert_close(values.mean(), value.detach(), rtol=1e-11, atol=1e-13)
    for rank in ranks:
        for name, parameter in net.named_parameters():
            ours = rank[pair, memory][1][name]
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_learned_parameters_have_gradients():
    """So that the test above compares something: the temperature's, the bias's and the prototypes' are not 0."""
    for pair in [("ntxent", "hcl"), ("siglip", "uniform"), ("swav", "uniform")]:
        net = Network(pair, memory=False)
        samples, labels, ids, _ = data()
        net(samples, labels, ids, None, slice(None)).backward()
        learned = [p.grad for p in net.loss.parameters()]
        assert learned
        assert all(g.abs().sum() > 0 for g in learned)


@pytest.mark.parametrize("shape", SHAPES, ids=["features", "images"])
def test_batch_norm_over_ranks_is_that_of_one(ranks, shape):
    """Values, gradients of inputs and parameters, running statistics, and evaluation, of torch's own on the whole."""
    whole = normalized(shape, slice(None), lambda model: model)
    for name, expected in whole.items():
        parts = [rank[shape][name] for rank in ranks]
        if name in ("out", "x", "evaluated"):
            found = torch.cat(parts)
        elif name.startswith("d"):
            found = sum(parts)  # each has its part of the batch; DDP takes the mean, of losses that are means
        else:
            found = parts[0]
            assert all(torch.equal(part, found) for part in parts)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_ranks_may_share_a_total_unevenly(ranks):
    for whole, _ in (rank["uneven"] for rank in ranks):
        assert whole.tolist() == [0, 1, 2, 3, 4]
    assert torch.cat([gradient for _, gradient in (rank["uneven"] for rank in ranks)]).tolist() == [
        len(ranks) * i for i in range(1, 6)
    ]


def test_batch_norms_are_put_back_and_others_left():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    kinds, sync = [type(m) for m in model], CrossRankBatchNormSync()
    assert [type(m) for m in sync.apply(model)] != kinds
    assert [type(m) for m in sync.revert(model)] == kinds
    assert not has_unsynced_batch_norm(model)
    odd = torch.nn.BatchNorm1d(2, affine=False), torch.nn.BatchNorm1d(2, momentum=None)
    for other in (torch.nn.BatchNorm3d(2), *odd):
        assert type(sync.apply(torch.nn.Sequential(other))[0]) is type(other)
        assert has_unsynced_batch_norm(torch.nn.Sequential(other))


def test_one_rank_gathers_nothing():
    z = torch.rand(3, 2, requires_grad=True)
    assert gather(z) is z
