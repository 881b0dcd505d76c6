"""W ranks of B take the gradient of one rank of W*B: real processes, gloo, float64, every loss with every strategy."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_losses import NO_NEGATIVES, PAIRS, make, remember

from repel.base.collectives import gather
from repel.engine.batch_norm import CrossRankBatchNormSync, has_unsynced_batch_norm

TOTAL = 12  # samples, over all ranks
FIXED = {"triplet", "margin_cosine", "cosine_regression"}  # no temperature to learn


class Network(torch.nn.Module):
    """A small encoder with the loss's own parameters, as the LightningModule has them."""

    def __init__(self, pair: tuple[str, str], memory: bool):
        super().__init__()
        torch.manual_seed(0)
        layers = torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5)
        self.net = torch.nn.Sequential(*layers).double()
        changes = {} if pair[0] in NO_NEGATIVES | FIXED else {"learn_temperature": True}
        memory = memory and pair[0] not in NO_NEGATIVES
        self.loss = remember(make(*pair, queue=8, **changes)) if memory else make(*pair, **changes)

    def forward(self, samples, labels, ids, target, local):
        """This rank's samples (3, B, 7) and everyone's labels, ids and targets -> the loss.

        The third view is a small crop, where there is a target and the loss takes crops.
        """
        z = self.net(samples.flatten(0, 1)).unflatten(0, samples.shape[:2])
        z = gather(z.transpose(0, 1)).transpose(0, 1)
        crops = {"crops": z[2:]} if target is not None and self.loss.takes_crops else {}
        return self.loss(z[:2], gather(labels), gather(ids), local, target, **crops)


def data() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    samples, target = (torch.randn(v, TOTAL, d, generator=generator, dtype=torch.float64) for v, d in ((3, 7), (2, 5)))
    return samples, torch.tensor([0, 1, 0, 2, 1, 1, 3, 3, 0, 2, 2, -1]), torch.arange(10, 10 + TOTAL), target


SHAPES = [(TOTAL, 5), (TOTAL, 5, 3, 2)]  # of what batch norm sees


def normalised(shape: tuple[int, ...], local: slice, apply) -> dict[str, torch.Tensor]:
    """What batch norm makes of this rank's part of a batch, in training and then in evaluation, with all gradients."""
    generator = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x = (3 * x[local] + 2).requires_grad_()
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    norm = apply(torch.nn.Sequential(kind(5).double()))
    out = norm(x)
    (out * weight[local]).sum().backward()
    made = {"out": out, "x": x.grad, "evaluated": norm.eval()(x)} | dict(norm.state_dict())
    made |= {f"d{name}": parameter.grad for name, parameter in norm.named_parameters()}
    return {name: value.detach() for name, value in made.items()}


def everything():
    return [(pair, memory) for pair in PAIRS for memory in (False, True)]


def rank_main(rank: int, world: int, address: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    size = TOTAL // world
    local = slice(rank * size, (rank + 1) * size)
    samples, labels, ids, target = data()
    out = {}
    for pair, memory in everything():
        net = Network(pair, memory)
        ddp = torch.nn.parallel.DistributedDataParallel(net)  # averages the gradients
        value = ddp(samples[:, local], labels[local], ids[local], target if memory else None, local)
        value.backward()
        out[pair, memory] = (value.detach(), {name: p.grad for name, p in net.named_parameters()})
    for shape in SHAPES:
        out[shape] = normalised(shape, local, CrossRankBatchNormSync().apply)
    torch.save(out, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=["two", "four"])
def ranks(request, tmp_path_factory):
    folder, world = tmp_path_factory.mktemp("ranks"), request.param
    mp.start_processes(
        rank_main, (world, f"file://{folder}/store", str(folder)), nprocs=world, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("memory", [False, True], ids=["batch", "queue and target"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
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
    whole = normalised(shape, slice(None), lambda model: model)
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
