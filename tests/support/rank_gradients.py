"""Gradients of every loss with every strategy on several ranks: real processes, gloo, float64."""

import torch
import torch.distributed as dist
from loss_cases import NO_NEGATIVES, PAIRS, make, remember
from rank_processes import run_ranks

from repel.base.collectives import gather, share
from repel.engine.batch_norm import CrossRankBatchNormSync

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
        """This rank's samples (4, B, 7), labels (B,) and ids (4, B), and everyone's targets -> the loss.

        The third view is a small crop, where there is a target and the loss takes crops; the fourth is an explicit
        negative, where the loss takes such. With a target each view shows its own entity, else the first view's.
        """
        z = self.net(samples.flatten(0, 1)).unflatten(0, samples.shape[:2])
        z, ids = (gather(t.transpose(0, 1)).transpose(0, 1) for t in (z, ids))
        further = {"crops": z[2:3]} if target is not None and self.loss.takes_crops else {}
        if self.loss.takes_negatives:
            further |= {"negatives": z[3:], "negative_ids": ids[3:]}
        return self.loss(z[:2], gather(labels), ids[0] if target is None else ids[:2], local, target, **further)


def data() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    samples, target = (torch.randn(v, TOTAL, d, generator=generator, dtype=torch.float64) for v, d in ((4, 7), (2, 5)))
    ids = torch.arange(10, 10 + 4 * TOTAL).view(4, TOTAL)
    ids[0, 7], ids[1, 10], ids[3, :4] = ids[0, 2], ids[0, 1], ids[0, 5:9]  # entities that are repeated on another rank
    return samples, torch.tensor([0, 1, 0, 2, 1, 1, 3, 3, 0, 2, 2, -1]), ids, target


SHAPES = [(TOTAL, 5), (TOTAL, 5, 3, 2)]  # of what batch norm sees


def normalized(shape: tuple[int, ...], local: slice, apply) -> dict[str, torch.Tensor]:
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


class Networks(torch.nn.Module):
    """A network for each (pair, memory), in one: so that DDP need not be made for each."""

    def __init__(self, cases: list):
        super().__init__()
        self.cases = cases
        self.networks = torch.nn.ModuleList(Network(*case) for case in cases)

    def forward(self, samples, labels, ids, target, local):
        """The loss of each case."""
        parts = zip(self.cases, self.networks, strict=True)
        return torch.stack([net(samples, labels, ids, target if memory else None, local)
                            for (_, memory), net in parts])  # fmt: skip


def ranks_main(world: int, results: str, cases: list) -> None:
    """The gradients of each (pair, memory) on so many ranks, into a file each in `results`."""
    torch.set_num_threads(1)
    networks = Networks(cases)  # which takes longer than what the ranks do with them
    run_ranks(rank_main, world, results, networks)


def rank_main(rank: int, world: int, results: str, networks: Networks) -> None:
    """One rank's gradients, and its part of SHAPES."""
    dist.init_process_group("gloo", init_method=f"file://{results}/store", rank=rank, world_size=world)
    size = TOTAL // world
    local = slice(rank * size, (rank + 1) * size)
    samples, labels, ids, target = data()
    out = {}
    if networks.cases:
        ddp = torch.nn.parallel.DistributedDataParallel(networks)  # averages the gradients
        values = ddp(samples[:, local], labels[local], ids[:, local], target, local)
        values.sum().backward()
        for case, value, net in zip(networks.cases, values.detach(), networks.networks, strict=True):
            out[case] = (value, {name: p.grad for name, p in net.named_parameters()})
    for shape in SHAPES:
        out[shape] = normalized(shape, local, CrossRankBatchNormSync().apply)
    part = torch.arange(5.0)[share(5, rank, world)].requires_grad_()  # a total that the ranks cannot share evenly
    whole = gather(part, total=5)
    (whole * torch.arange(1.0, 6)).sum().backward()
    out["uneven"] = whole.detach(), part.grad
    torch.save(out, f"{results}/{rank}.pt")
    dist.destroy_process_group()
