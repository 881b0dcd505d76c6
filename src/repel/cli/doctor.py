"""Check this machine: repel doctor prints a table, one verdict per row; exit status 1 if one is bad."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from repel.base.cores import usable_cores
from repel.base.terminal import table_console

if TYPE_CHECKING:
    from torch import Tensor

GOOD, LOOK, BAD = "good", "look", "bad"
Finding = tuple[str, str]  # verdict, message


def versions() -> Finding:
    """A missing package raises PackageNotFoundError, which becomes the verdict."""
    names = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "tensorboard")
    return GOOD, f"python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in names)


def gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        return LOOK, f"none that torch can use ({built}); training runs on the CPU"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free = [torch.cuda.mem_get_info(i)[0] / 2**30 for i in range(len(names))]
    return GOOD, ", ".join(f"{name} ({gib:.0f} GiB free)" for name, gib in zip(names, free, strict=True))


def collectives() -> Finding:
    import torch
    import torch.distributed as dist

    found = [name for name, there in (("gloo", dist.is_gloo_available()), ("nccl", dist.is_nccl_available())) if there]
    missing = torch.cuda.device_count() > 1 and "nccl" not in found
    return (BAD if missing or not found else GOOD), ", ".join(found) or "none: trainer.devices > 1 cannot work"


def cores() -> Finding:
    number = usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS")
    return (GOOD if number > 1 else LOOK), f"{number} cores" + (f", OMP_NUM_THREADS={threads}" if threads else "")


def memory() -> Finding:
    import torch

    from repel.losses.chunking import free_bytes

    gib = free_bytes(torch.device("cpu")) / 2**30
    return (GOOD if gib > 4 else LOOK if gib > 2 else BAD), f"{gib:.1f} GiB free; the default run takes about 1"


def disk() -> Finding:
    gib = shutil.disk_usage(".").free / 2**30
    with tempfile.NamedTemporaryFile(dir=".") as file:  # runs are written here
        start = time.perf_counter()
        file.write(bytes(2**24))
        file.flush()
        os.fsync(file.fileno())
        speed = 16 / (time.perf_counter() - start)
    return (GOOD if gib > 5 else LOOK if gib > 1 else BAD), f"{gib:.1f} GiB free here, written at {speed:,.0f} MiB/s"


def workers() -> Finding:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    start = time.perf_counter()
    samples = TensorDataset(torch.ones(8))
    total = sum(int(batch.sum()) for (batch,) in DataLoader(samples, num_workers=2, batch_size=2))
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").is_dir() else 0.0
    took = time.perf_counter() - start
    words = f"two workers delivered their batches in {took:.1f} s; {shared:.1f} GiB of shared memory"
    return (BAD if total != 8 else GOOD if shared > 0.5 else LOOK), words


def two_ranks() -> Finding:
    """Two ranks with 4 samples each compute the gradient of one rank with 8."""
    import torch
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        expected = gradient(slice(0, 8))
        mp.start_processes(rank_main, (folder,), nprocs=2, start_method="spawn")
        error = max(float((torch.load(f"{folder}/{rank}.pt") - expected).abs().max()) for rank in range(2))
    return (GOOD if error < 1e-12 else BAD), f"two gloo ranks compute the gradient of one, within {error:.0e}"


def gradient(local: slice) -> "Tensor":
    """NT-Xent's gradient with tilted negatives, for a linear encoder's weights (5, 7), averaged over ranks."""
    import torch
    import torch.distributed as dist

    from repel.base.collectives import gather, world_size
    from repel.losses import NTXent
    from repel.negatives import Tilt

    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2, 8, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64).requires_grad_()
    z = gather((samples[:, local] @ weight).transpose(0, 1)).transpose(0, 1)
    value = NTXent(negatives=Tilt())(z, ids=gather(torch.arange(8)[local]), local=local)
    found = torch.autograd.grad(value, weight)[0] / world_size()
    if world_size() > 1:
        dist.all_reduce(found)
    return found


def rank_main(rank: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(gradient(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def first_step() -> Finding:
    """From the command to the end of the first step, in another process."""
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        options = [
            "experiment=debug",
            "trainer.max_steps=1",
            "evaluators=[]",
            "evaluation.map=null",
            "callbacks.knn=null",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "repel.cli.main", "train", *options],
            cwd=folder, encoding="utf-8", errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        start = time.perf_counter()
        done = next((time.perf_counter() - start for line in process.stdout if line.startswith("epoch ")), None)
        _, errors = process.communicate()
    if done is None:
        return BAD, errors.strip().splitlines()[-1] if errors.strip() else "training did not start"
    return (GOOD if done < 60 else LOOK), f"{done:.1f} s after the command, with start-up and reading the data"


CHECKS: dict[str, Callable[[], Finding]] = {
    "versions": versions,
    "GPUs": gpus,
    "collectives": collectives,
    "cores": cores,
    "memory": memory,
    "disk": disk,
    "workers": workers,
    "two ranks": two_ranks,
    "first step": first_step,
}


def findings() -> Iterator[tuple[str, str, str]]:
    for name, check in CHECKS.items():
        try:
            yield name, *check()
        except Exception as error:  # any error is the finding
            yield name, BAD, f"{type(error).__name__}: {' '.join(str(error).split())}"


def main() -> int:
    """Check that this machine is ready to train"""
    table = Table("", "verdict", "", title="doctor")
    found = list(findings())
    colors = {GOOD: "green", LOOK: "yellow", BAD: "red"}
    for name, verdict, words in found:
        table.add_row(name, Text(verdict, colors[verdict]), words)
    table_console().print(table)
    return int(any(verdict == BAD for _, verdict, _ in found))
