"""W ranks of B take the gradient of one rank of W*B: two real processes, gloo, float64."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import config, options
from hydra.utils import instantiate

from repel.distributed import gather

PAIRS = list(itertools.product(options("loss"), options("negatives")))
WORLD, LOCAL = 2, 3


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5)).double()


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(2, WORLD * LOCAL, 7, generator=generator, dtype=torch.float64)
    return samples, torch.tensor([0, 1, 0, 2, 1, 1]), torch.arange(WORLD * LOCAL)


def rank_main(rank: int, address: str, configs: dict, results: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    local = slice(rank * LOCAL, (rank + 1) * LOCAL)
    samples, labels, ids = data()
    out = {}
    for key, cfg in configs.items():
        net, loss = network(), instantiate(cfg).double()
        ddp = torch.nn.parallel.DistributedDataParallel(net)  # averages the gradients
        z = ddp(samples[:, local].flatten(0, 1)).unflatten(0, (2, LOCAL))
        z = gather(z.transpose(0, 1)).transpose(0, 1)
        value = loss(z, gather(labels[local]), gather(ids[local]), local)
        value.backward()
        out[key] = (value.detach(), [p.grad for p in net.parameters()])
    torch.save(out, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    configs = {pair: config(f"loss={pair[0]}", f"negatives={pair[1]}").loss for pair in PAIRS}
    mp.spawn(rank_main, (f"file://{folder}/store", configs, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_gradient_of_two_ranks_is_that_of_one(two_ranks, pair):
    net, loss = network(), instantiate(config(f"loss={pair[0]}", f"negatives={pair[1]}").loss).double()
    samples, labels, ids = data()
    value = loss(net(samples.flatten(0, 1)).unflatten(0, (2, WORLD * LOCAL)), labels, ids)
    value.backward()
    values = torch.stack([ranks[pair][0] for ranks in two_ranks])
    torch.testing.assert_close(values.mean(), value.detach(), rtol=1e-12, atol=0)
    for ranks in two_ranks:
        for ours, whole in zip(ranks[pair][1], net.parameters(), strict=True):
            torch.testing.assert_close(ours, whole.grad, rtol=1e-11, atol=1e-13)


def test_one_rank_gathers_nothing():
    z = torch.rand(3, 2, requires_grad=True)
    assert gather(z) is z
