"""The Python blocks of docs/library.md, and its step over several ranks."""

import re
from pathlib import Path

import torch
import torch.distributed as dist

PAGE = Path(__file__).parents[2] / "docs/library.md"
SAMPLES = 12


def blocks() -> list[tuple[dict[str, str], str]]:
    """(options after ```python, code) of each block, in order."""
    found = re.findall(r"^```python ?(.*?)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(dict(option.split("=") for option in options.split()), code) for options, code in found]


def run(code: str) -> dict:
    namespace = {"__name__": "page"}
    exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace


def ddp_gradients(world: int, rank: int) -> list[torch.Tensor]:
    """Value and gradients of the page's training step, in float64, of this rank's part of one batch."""
    page = run(next(code for options, code in blocks() if options.get("name") == "ddp"))
    views = torch.randn(2, SAMPLES, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    part = slice(rank * SAMPLES // world, (rank + 1) * SAMPLES // world)
    model = page["make_model"]().double()
    if world > 1:
        model = page["DistributedDataParallel"](model)
    value = page["train_step"](model, page["NTXent"](temperature=0.5), views[:, part])
    return [value.detach(), *(parameter.grad for parameter in model.parameters())]


def rank_main(rank: int, world: int, address: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.save(ddp_gradients(world, rank), f"{results}/{rank}.pt")
    dist.destroy_process_group()
