"""Memory and time of a rank's loss with gather=all and gather=ring: docs/benchmarks/ring.md

    python scripts/benchmark_ring.py [--samples 128] [--dim 8192] [--row-chunk 64] [--steps 1]

NT-Xent of random embeddings, forward and backward, on 1, 2 and 4 ranks, each a process with one thread, over Gloo.
One or two minutes.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import ctypes
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import torch.distributed as dist
from _benchmark import versions, write_page

from repel.base.collectives import gather
from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal
from repel.losses import NTXent
from repel.losses.ring import ring_loss

HEAD = """# The memory of a loss over ranks

`{command}`: NT-Xent of random embeddings, V = 2 views of B = {samples:,} samples a rank, D = {dim:,},
float32, `loss.row_chunk={row_chunk}`, forward and backward from its own embeddings on, {steps} step(s) after one that
warms up. Each rank is a process with one thread, over Gloo, on one machine with {cores} cores, {versions}.

Memory: how far the largest resident size (VmHWM) of a rank rises from before the steps on; the largest of the ranks.
CPU seconds of a step: of a rank, the mean of the ranks' medians; rough, where other work runs beside. Embeddings:
(V, W*B, D), which `gather=all` holds on each rank, several times over: as they are, as unit vectors, and their
gradients. Values agree within {error:.0e}; a test compares values and gradients in float64 (tests/engine/test_ring.py).

| ranks | `gather` | memory of a rank, MB | embeddings of all, MB | of a rank, MB | CPU seconds a step |
|---|---|---|---|---|---|
"""
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
WORLDS, WAYS = (1, 2, 4), ("all", "ring")


def resident(key: str = "VmHWM") -> float:
    """MB of this process: its largest so far, or with VmRSS that of now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def measure(options: argparse.Namespace, rank: int, world: int, way: str, folder: str, found: SimpleQueue) -> None:
    """A rank, in a process of its own."""
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**18)  # what is freed goes back: holes of the heap do not count
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    loss = NTXent(row_chunk=options.row_chunk)

    def step(z: torch.Tensor) -> torch.Tensor:
        if way == "ring":
            value = ring_loss(loss, z)
        else:
            start, samples = rank * z.shape[1], z.shape[1]
            value = loss(gather(z.transpose(0, 1)).transpose(0, 1), local=slice(start, start + samples))
        value.backward()
        return value.detach()

    step(torch.randn(2, 8, 8, requires_grad=True))  # connections are not the loss's
    generator = torch.Generator().manual_seed(rank)
    z = torch.randn(2, options.samples, options.dim, generator=generator).requires_grad_()
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the largest size counts from here on
    before, seconds = resident("VmRSS"), []
    for _ in range(options.steps + 1):
        z.grad, began = None, time.process_time()
        value = step(z)
        seconds.append(time.process_time() - began)
    memory = resident() - before
    dist.all_reduce(value)
    found.put({"memory": memory, "seconds": statistics.median(seconds[1:]), "value": value.item() / world})
    dist.destroy_process_group()


def run(options: argparse.Namespace, world: int, way: str) -> list[dict[str, float]]:
    """What each rank found."""
    fork = multiprocessing.get_context("fork")
    found = fork.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [fork.Process(target=measure, args=(options, r, world, way, folder, found)) for r in range(world)]
        for rank in ranks:
            rank.start()
        try:
            for rank in ranks:
                rank.join()
        finally:
            for rank in ranks:
                rank.kill()
    if any(rank.exitcode for rank in ranks):
        raise RuntimeError(f"{world} ranks, gather={way}: a rank failed, as its traceback says")
    return [found.get() for _ in ranks]


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser()
    for name, number in (("samples", 128), ("dim", 8192), ("row-chunk", 64), ("steps", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    found = {}
    for world in WORLDS:
        for way in WAYS:
            found[world, way] = run(options, world, way)
            print(world, way, found[world, way], flush=True)
    errors = [abs(found[world, "ring"][0]["value"] / found[world, "all"][0]["value"] - 1) for world in WORLDS]
    text = HEAD.format(
        command=" ".join(["python scripts/benchmark_ring.py", *sys.argv[1:]]), samples=options.samples,
        dim=options.dim, row_chunk=options.row_chunk, steps=options.steps, cores=usable_cores(),
        versions=versions("torch"), error=max(*errors, 1e-7),
    )  # fmt: skip
    own = 2 * options.samples * options.dim * 4 / 2**20
    for (world, way), ranks in found.items():
        memory, seconds = max(r["memory"] for r in ranks), statistics.mean(r["seconds"] for r in ranks)
        text += f"| {world} | {way} | {memory:,.0f} | {own * world:,.0f} | {own:,.0f} | {seconds:.2f} |\n"
    write_page("ring.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
