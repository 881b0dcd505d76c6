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


def ddp_block() -> tuple[dict, torch.Tensor]:
    """What the page's block on several devices leaves, run in float64, and the views of one global batch."""
    torch.set_default_dtype(torch.float64)
    try:
        page = run(next(code for options, code in blocks() if options.get("name") == "ddp"))
    finally:
        torch.set_default_dtype(torch.float32)
    return page, torch.randn(2, SAMPLES, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def value_and_gradients(value: torch.Tensor, model: torch.nn.Module) -> list[torch.Tensor]:
    return [value.detach(), *(parameter.grad for parameter in model.parameters())]


def ddp_gradients(world: int, rank: int) -> list[torch.Tensor]:
    """Value and gradients of the page's step with the page's model, of this rank's part of the batch."""
    page, views = ddp_block()
    part = slice(rank * SAMPLES // world, (rank + 1) * SAMPLES // world)
    page["model"].zero_grad()
    value = page["train_step"](page["model"], page["NTXent"](temperature=0.5), views[:, part])
    return value_and_gradients(value, page["model"])


def plain_gradients() -> list[torch.Tensor]:
    """The same of the whole batch in one process, without the page's step: no gather, no local."""
    page, views = ddp_block()
    page["model"].zero_grad()
    value = page["NTXent"](temperature=0.5)(torch.stack([page["model"](view) for view in views]))
    value.backward()
    return value_and_gradients(value, page["model"])


def rank_main(rank: int, world: int, address: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.save(ddp_gradients(world, rank), f"{results}/{rank}.pt")
    dist.destroy_process_group()
