"""Rows in blocks, so that memory grows with the block and not with all rows."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MATRICES = 8  # of anchors x candidates that a block holds at its peak, forward and backward; tilt needs the most
WHOLE, BLOCK, ROWS = (
    2**28,
    2**26,
    128,
)  # on a CPU: below so many bytes all at once; else blocks of so many bytes or rows


def in_blocks(
    block: Callable[..., Tensor], chunk: int | None, rows: tuple, shared: tuple, parameters: Iterable[Tensor]
) -> Tensor:
    """block(part, *rows[part], *shared) for slices `part` of the rows, concatenated: the same for any chunk.

    Args:
        block: returns a value per row, (m,). It is a pure function.
        chunk: rows at a time, or None for all at once.
        rows: tensors (M, ...) of which a block gets its part.
        shared: tensors and numbers of which every block gets all.
        parameters: which block uses by itself. Gradients flow to all three.
    """
    if chunk is None:
        return block(slice(0, len(rows[0])), *rows, *shared)
    return Blocks.apply(block, chunk, len(rows), len(shared), *rows, *shared, *parameters)


class Blocks(torch.autograd.Function):
    """Activation checkpointing, block by block: forward keeps the inputs alone, backward computes each block again.

    torch.utils.checkpoint keeps a graph per block from forward to backward; its small pieces between the large, freed
    ones make the heap of a CPU process grow to several times what is in use. Here nothing outlives its block.
    """

    @staticmethod
    def forward(ctx, block, chunk: int, rowwise: int, shared: int, *tensors) -> Tensor:
        ctx.block, ctx.chunk, ctx.rowwise, ctx.inputs = block, chunk, rowwise, rowwise + shared
        ctx.constants = [None if isinstance(t, Tensor) else t for t in tensors]
        ctx.save_for_backward(*(t if isinstance(t, Tensor) else None for t in tensors))
        rows, others = tensors[:rowwise], tensors[rowwise : ctx.inputs]
        values = rows[0].new_empty(len(rows[0]))
        for part in parts(len(rows[0]), chunk):
            values[part] = block(part, *(t[part] for t in rows), *others)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        needed = ctx.needs_input_grad[4:]
        saved = [c if t is None else t for t, c in zip(ctx.saved_tensors, ctx.constants, strict=True)]
        # inputs are cut from the graph; parameters are leaves, and must be the ones that block uses
        for i in range(ctx.rowwise, ctx.inputs):
            saved[i] = saved[i].detach().requires_grad_() if needed[i] else saved[i]
        totals = [torch.zeros_like(t) if need else None for t, need in zip(saved, needed, strict=True)]
        for part in parts(len(gradient), ctx.chunk):
            rows = [t[part].detach().requires_grad_(n) for t, n in zip(saved[: ctx.rowwise], needed, strict=False)]
            leaves = [*rows, *saved[ctx.rowwise :]]
            wanted = [i for i, need in enumerate(needed) if need]
            with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
                values = ctx.block(part, *leaves[: ctx.inputs])
                # grad() in place of backward(): a parameter's hooks, such as DDP's, must see its whole gradient once
                found = torch.autograd.grad(values, [leaves[i] for i in wanted], gradient[part], allow_unused=True)
            for i, new in zip(wanted, found, strict=True):
                if new is not None:
                    (totals[i][part] if i < ctx.rowwise else totals[i]).add_(new)
        return None, None, None, None, *totals


def parts(rows: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def auto_chunk(rows: int, columns: int, element_size: int, device: torch.device) -> int | None:
    """Anchors per block, or None for all at once.

    A fourth of the free memory may be used. On a CPU blocks also stay small because they are faster: what does not fit
    its caches is bound by memory. A power of two, so that a little more or less memory rarely changes it.
    """
    per_row = MATRICES * element_size * max(1, columns)
    allowed = free_bytes(device) // 4
    if rows * per_row <= (allowed if device.type == "cuda" else min(allowed, WHOLE)):
        return None
    fits = allowed // per_row
    if device.type != "cuda":
        fits = min(fits, max(BLOCK // per_row, ROWS))
    return 2 ** (max(1, fits).bit_length() - 1)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: on a GPU with what torch holds unused, on Linux within the group's limit."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    known = [int(line.split()[1]) * 1024 for line in lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = (lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        known.append(max(0, int(limit[0]) - int(used[0])))
    return min(known, default=2**32)


def lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []
