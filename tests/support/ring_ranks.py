"""Gradients of losses over ranks by gather=ring: real processes, gloo, float64."""

import torch
import torch.distributed as dist
from conftest import options
from loss_cases import PAIRS, built, make, plain
from rank_gradients import TOTAL, Network, data
from rank_processes import run_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from repel.base.collectives import gather, share
from repel.losses import NTXent
from repel.losses.ring import ring_loss, tiled


def allowed(loss: torch.nn.Module) -> bool:
    try:
        tiled(loss)
    except ValueError:
        return False
    return True


# of a pair it depends on the loss and on the strategy, each by itself; test_others_are_refused_in_a_line tries the rest
_LOSSES = {name for name in options("loss") if allowed(make(name))}
_STRATEGIES = {name for name in options("negatives") if built(plain("negatives", name)).needs_whole() is None}
ALLOWED = [pair for pair in PAIRS if pair[0] in _LOSSES and pair[1] in _STRATEGIES]
LARGE = 2, 16, 64  # V, B and D of a rank, so that logits of tiles are smaller than embeddings


class RingNetwork(Network):
    """With a memory: a target, crops, and ids of each view. No queue."""

    def __init__(self, pair: tuple[str, str], memory: bool):
        super().__init__(pair, memory=False)
        self.loss.row_chunk = 3 if memory else None

    def forward(self, samples, labels, ids, target, local, ring: bool = False):
        """As of Network, of this rank's samples alone, a target's too; all of them at once where not `ring`."""
        z = self.net(samples.flatten(0, 1)).unflatten(0, samples.shape[:2])
        further = {"crops": z[2:3]} if target is not None and self.loss.takes_crops else {}
        further |= {"negatives": z[3:], "negative_ids": ids[3:]}
        shown = ids[0] if target is None else ids[:2]
        if ring:
            return ring_loss(self.loss, z[:2], labels, shown, target, **further, total=TOTAL)
        return self.loss(z[:2], labels, shown, local, target, **further)


class Largest(TorchDispatchMode):
    """The most numbers that a tensor has which is computed in here."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, torch.Tensor):
                self.numbers = max(self.numbers, made.numel())
        return out


def largest(ring: bool) -> int:
    """Of NT-Xent, forward and backward, from this rank's embeddings on."""
    views, samples, dim = LARGE
    z = torch.randn(views, samples, dim, generator=torch.Generator().manual_seed(dist.get_rank())).requires_grad_()
    loss = NTXent(temperature=0.5, row_chunk=8)
    with Largest() as seen:
        if ring:
            ring_loss(loss, z).backward()
        else:
            start = dist.get_rank() * samples
            loss(gather(z.transpose(0, 1)).transpose(0, 1), local=slice(start, start + samples)).backward()
    return seen.numbers


def ranks_main(world: int, results: str, cases: list) -> None:
    """The value and gradients of each case on so many ranks, into a file each in `results`."""
    torch.set_num_threads(1)
    run_ranks(_rank, world, results, cases, torch.nn.ModuleList(RingNetwork(*case) for case in cases))


def _rank(rank: int, world: int, results: str, cases: list, networks: torch.nn.ModuleList) -> None:
    """Parts of 12 samples, as uneven as they can be; means over ranks by their number of samples."""
    dist.init_process_group("gloo", init_method=f"file://{results}/store", rank=rank, world_size=world)
    local = share(TOTAL, rank, world)
    samples, labels, ids, target = data()
    out = {}
    for (pair, memory), net in zip(cases, networks, strict=True):
        keys = target[:, local] if memory else None
        value = net(samples[:, local], labels[local], ids[:, local], keys, local, ring=True)
        (value * (local.stop - local.start) / TOTAL).backward()  # uneven ranks: each anchor counts the same
        found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
        for gradient in found.values():
            dist.all_reduce(gradient)
        mean = value.detach() * (local.stop - local.start) / TOTAL
        dist.all_reduce(mean)
        out[pair, memory] = mean, found
    out["largest"] = {ring: largest(ring) for ring in (False, True)}
    torch.save(out, f"{results}/{rank}.pt")
    dist.destroy_process_group()
