"""Rows in blocks, so that memory grows with the block and not with all rows."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# of anchors x candidates that a block holds at its peak, forward and backward: 5 to 11 by loss and strategy with two
# views, 2 more for each further view of a pair loss; what a strategy holds beside them is its extra_elements()
PEAK_MATRICES = 8
ALWAYS_DENSE = 2**19  # anchors x candidates for which auto_chunk need not be asked: a few megabytes
# on a CPU, for its caches: all at once up to DENSE_MAX_BYTES; else blocks of BLOCK_BYTES, or MIN_BLOCK_ROWS if more
DENSE_MAX_BYTES, BLOCK_BYTES, MIN_BLOCK_ROWS = 2**26, 2**25, 64


def in_blocks(
    block: Callable[..., Tensor],
    chunk: int | None,
    rows: tuple,
    shared: tuple,
    parameters: Iterable[Tensor],
    alike: bool = False,
) -> Tensor:
    """block(part, *rows[part], *shared) for slices `part` of the rows, concatenated: the same for any chunk.

    Args:
        block: returns a value per row, (m,). It is a pure function.
        chunk: rows at a time, or None for all at once.
        rows: tensors (M, ...) of which a block gets its part.
        shared: tensors and numbers of which every block gets all.
        parameters: which block uses by itself. Gradients flow to all three.
        alike: all values will have one gradient, as those of a mean have. Where it is not said, a CPU finds out by
            itself, and a GPU, which would have to be waited for, computes each block a second time.
    """
    if chunk is None:
        return block(slice(0, len(rows[0])), *rows, *shared)
    inputs = [*rows, *shared, *parameters]
    if not (torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)):
        return torch.cat([block(part, *(t[part] for t in rows), *shared) for part in _parts(len(rows[0]), chunk)])
    return _Blocks.apply(block, chunk, len(rows), len(shared), alike, *inputs)


class _Blocks(torch.autograd.Function):
    """Block by block, with nothing that outlives its block but the gradients.

    A mean over rows gives every row the same weight, so forward takes the gradients of a sum in the same pass, and
    backward scales them. With other weights backward computes each block again, as activation checkpointing does; on a
    GPU forward then takes no gradients, unless it is told that weights will be alike.
    (torch.utils.checkpoint keeps a graph per block from forward to backward; its small pieces between the large, freed
    ones make the heap of a CPU process grow to several times what is in use.)
    """

    @staticmethod
    def forward(
        ctx: Any, block: Callable[..., Tensor], chunk: int, rowwise: int, shared: int, alike: bool, *tensors: Any
    ) -> Tensor:
        ctx.layout, ctx.alike = (block, chunk, rowwise, rowwise + shared), alike
        ctx.constants = [None if isinstance(t, Tensor) else t for t in tensors]
        ctx.save_for_backward(*(t if isinstance(t, Tensor) else None for t in tensors))
        if not (alike or _may_be_asked(tensors[0])):
            ctx.gradients, inputs = None, tensors[: rowwise + shared]
            return torch.cat([block(part, *(t[part] for t in inputs[:rowwise]), *inputs[rowwise:])
                              for part in _parts(len(inputs[0]), chunk)])  # fmt: skip
        values, ctx.gradients = _sweep(ctx.layout, tensors, ctx.needs_input_grad[5:], None)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple:
        found = ctx.gradients
        if found is not None and (ctx.alike or bool((weights == weights[0]).all())):
            gradients = [None if g is None else g * weights[0] for g in found]
        else:
            tensors = [c if t is None else t for t, c in zip(ctx.saved_tensors, ctx.constants, strict=True)]
            _, gradients = _sweep(ctx.layout, tensors, ctx.needs_input_grad[5:], weights)
        return None, None, None, None, None, *gradients


def _may_be_asked(tensor: Tensor) -> bool:
    """Whether the host reads values such as these without waiting for a device."""
    return tensor.device.type == "cpu"


def _sweep(
    layout: tuple[Callable[..., Tensor], int, int, int],
    tensors: Iterable,
    needed: tuple[bool, ...],
    weights: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """All blocks' values (M,), and the gradients of their weighed sum; None weighs all by 1.

    Args:
        layout: block, chunk, how many of the tensors are rows, and how many are inputs of block; the rest are
            parameters.
        needed: of which tensors gradients are wanted; the others get None.
    """
    block, chunk, rowwise, inputs = layout
    # inputs are cut from the graph; parameters are leaves, and must be the ones that block uses
    tensors = [t.detach().requires_grad_() if n and i < inputs else t
               for i, (t, n) in enumerate(zip(tensors, needed, strict=True))]  # fmt: skip
    wanted = [i for i, need in enumerate(needed) if need]
    totals = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needed, strict=True)]
    rows = tensors[:rowwise]
    values = rows[0].new_empty(len(rows[0]))
    for part in _parts(len(values), chunk):
        leaves = [*(t[part].detach().requires_grad_(t.requires_grad) for t in rows), *tensors[rowwise:]]
        with torch.enable_grad(), torch.autocast(values.device.type, enabled=False):
            result = block(part, *leaves[:inputs])
            weight = torch.ones_like(result) if weights is None else weights[part]
            # grad() in place of backward(): a parameter's hooks, such as DDP's, must see its whole gradient once
            found = torch.autograd.grad(result, [leaves[i] for i in wanted], weight, allow_unused=True)
        values[part] = result.detach()
        for i, new in zip(wanted, found, strict=True):
            if new is not None:
                total = totals[i]
                assert total is not None
                (total[part] if i < rowwise else total).add_(new)
    return values, totals


def _parts(rows: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def auto_chunk(rows: int, columns: int, element_size: int, device: torch.device) -> int | None:
    """Anchors per block, or None for all at once.

    A fourth of the free memory may be used. On a CPU blocks also stay small because they are faster: what does not fit
    its caches is bound by memory. A power of two, so that a little more or less memory rarely changes it.
    """
    per_row = PEAK_MATRICES * element_size * max(1, columns)
    allowed = free_bytes(device) // 4
    if rows * per_row <= (allowed if device.type == "cuda" else min(allowed, DENSE_MAX_BYTES)):
        return None
    fits = allowed // per_row
    if device.type != "cuda":
        fits = min(fits, max(BLOCK_BYTES // per_row, MIN_BLOCK_ROWS))
    return 2 ** (max(1, fits).bit_length() - 1)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: on a GPU with what torch holds unused, on Linux within the group's limit."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    known = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        known.append(max(0, int(limit[0]) - int(used[0])))
    return min(known, default=2**32)


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
