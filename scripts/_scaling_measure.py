"""What docs/scaling.md has from this machine: counts on torch's meta device, and CPU seconds of one thread."""

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _benchmark import compose_config
from _training import BARE, fit
from hydra.utils import instantiate
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from repel.engine.build import build_data, build_module
from repel.losses import NTXent

IMAGENET = ["data=imagenet", "data.root=unread"]
VIT = ["encoder=vit", "encoder.patch_size=16", "encoder.width=768", "encoder.depth=12", "encoder.heads=12"]
MODELS = {  # name -> overrides, shape of a view
    "small, 28 pixels": ([], (1, 28, 28)),
    "ResNet-18, 32 pixels": (["data=cifar10", "encoder=resnet18"], (3, 32, 32)),
    "ResNet-50, 224 pixels": ([*IMAGENET, "encoder=resnet50", "encoder.stem=imagenet"], (3, 224, 224)),
    "ViT-B/16, 224 pixels": ([*IMAGENET, *VIT, "encoder.mlp_ratio=4"], (3, 224, 224)),
}
BATCHES = (128, 512)  # of the whole steps that are measured
ROUNDS = 7


def count_model(overrides: list[str], shape: tuple[int, ...], views: int = 4) -> dict[str, float]:
    """Parameters; of a view the FLOPs of a forward pass, the bytes that it keeps for backward, and those that forward
    and backward read and write. Nothing is computed."""
    cfg = compose_config(*overrides)
    with torch.device("meta"):
        encoder = instantiate(cfg.encoder).train()
    own, kept = {id(p) for p in encoder.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.zeros(views, *shape, device="meta")
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        h = encoder(x)
    with _Traffic(0) as traffic:
        encoder(x)
        h.sum().backward()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    counts = {"flops": counter.get_total_flops(), "kept": total, "moved": traffic.bytes}
    parameters = sum(p.numel() for p in encoder.parameters())
    return {"parameters": parameters} | {name: count / views for name, count in counts.items()}


class _Traffic(TorchDispatchMode):
    """Bytes that operations read and write of tensors with at least so many numbers, if nothing is fused."""

    def __init__(self, numbers: int):
        super().__init__()
        self.numbers, self.bytes = numbers, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        views = {a.untyped_storage()._cdata for a in tree_leaves(args) if isinstance(a, torch.Tensor)}
        written = [r for r in tree_leaves(result) if isinstance(r, torch.Tensor)]
        if all(r.untyped_storage()._cdata in views for r in written) and not function._schema.is_mutable:
            return result  # another look at the same memory
        for tensor in [*tree_leaves((args, kwargs)), *written]:
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.numbers:
                self.bytes += tensor.untyped_storage().nbytes()
        return result


def count_traffic(samples: int = 64, dim: int = 8) -> float:
    """Bytes for each logit of NT-Xent, forward and backward."""
    logits = (2 * samples) ** 2
    z = torch.randn(2, samples, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with _Traffic(logits) as traffic:
        NTXent(row_chunk=None)(z).backward()
    return traffic.bytes / logits


def least(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """CPU seconds."""
    found = []
    for number in range(rounds + 1):
        began = time.process_time()
        function()
        if number:  # the first warms up
            found.append(time.process_time() - began)
    return min(found)


def measure_loss(samples: int = 512) -> dict[str, float]:
    """Seconds of a logit: `fixed` and `of_dim`, which D is multiplied by."""
    dims, seconds, loss = (32, 512), [], NTXent(row_chunk=None)
    for dim in dims:
        z = torch.randn(2, samples, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
        seconds.append(least(lambda z=z: loss(z).backward()) / (2 * samples) ** 2)
    of_dim = (seconds[1] - seconds[0]) / (dims[1] - dims[0])
    return {"fixed": seconds[0] - of_dim * dims[0], "of_dim": of_dim}


def measure_parts() -> dict[str, float]:
    """Of the default run, at a batch of 128."""
    cfg = compose_config()
    module, data = build_module(cfg), build_data(cfg)
    data.setup()
    images, generator = data.splits.train.pixels[: cfg.data.batch_size], torch.Generator().manual_seed(0)
    views = 2 * len(images)
    x = data.views(images, generator).flatten(0, 1)
    optimizer = module.optimizer(module.parameters())
    encode = least(lambda: module.encoder(x).sum().backward())
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    return {"view": least(lambda: data.views(images, generator)) / views, "encoder": encode / views,
            "optimizer": least(optimizer.step) / sum(p.numel() for p in module.parameters())}  # fmt: skip


def measure_step(batch: int, steps: int) -> float:
    """Median CPU seconds of a step of the default run, all that train.py does in a step included."""
    ends: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.process_time())

    cfg = compose_config(*BARE, f"data.batch_size={batch}", "trainer.accelerator=cpu", "trainer.max_epochs=-1",
                         f"trainer.max_steps={steps + 1}")  # fmt: skip
    module, data = build_module(cfg), build_data(cfg)
    data.setup()
    with tempfile.TemporaryDirectory() as folder:
        fit(cfg, module, data, Path(folder), [Clock()])
    return statistics.median(b - a for a, b in pairwise(ends))


def _exchange(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = []
    for size in (1, 2**22):  # 4 bytes; 16 MiB
        tensor, times = torch.zeros(size), []
        for _ in range(20):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - began)
        found.append(min(times))
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


def measure_exchange() -> dict[str, float]:
    """Two ranks by gloo on this machine, an all-reduce: seconds that it takes at least, and bytes/s one way."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(_exchange, (folder,), nprocs=2, start_method="fork")
        few, many = torch.load(f"{folder}/found.pt")
    return {"base": few, "bandwidth": 4 * 2**22 / (many - few)}  # 2 (W - 1) / W = 1 time the tensor


def measure() -> dict[str, Any]:
    torch.set_num_threads(1)
    models = {name: count_model(*made) for name, made in MODELS.items()}
    return {"torch": torch.__version__.split("+")[0], "models": models, "traffic": count_traffic(),
            "loss": measure_loss(), "parts": measure_parts(), "exchange": measure_exchange(),
            "steps": {str(batch): measure_step(batch, 1280 // batch + 2) for batch in BATCHES}}  # fmt: skip
