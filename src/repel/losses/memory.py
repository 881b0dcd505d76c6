"""How many anchors fit into memory at a time."""

from pathlib import Path

import torch

MATRICES = 8  # of anchors x candidates that a block holds at its peak, forward and backward; tilt needs the most
WHOLE, BLOCK = 2**28, 2**27  # bytes: below the first, all at once; else blocks of at most the second


def auto_chunk(rows: int, columns: int, element_size: int, device: torch.device) -> int | None:
    """Anchors per block, or None for all at once.

    A fourth of the free memory may be used. On a CPU blocks also stay small because they are faster: what does not fit
    its caches is bound by memory. A power of two, so that a little more or less memory rarely changes it.
    """
    per_row = MATRICES * element_size * max(1, columns)
    allowed = free_bytes(device) // 4
    whole, block = (allowed, allowed) if device.type == "cuda" else (min(allowed, WHOLE), min(allowed, BLOCK))
    if rows * per_row <= whole:
        return None
    fits = max(1, block // per_row)
    return 2 ** (fits.bit_length() - 1)


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
