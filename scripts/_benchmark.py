"""Shared by the benchmark scripts: where their pages go, composed configs, medians with ranges, time and memory."""

import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/benchmarks"


def compose_config(*overrides: str) -> Any:
    """The config of train.py with these overrides."""
    from hydra import compose, initialize_config_dir  # not at the top: other libraries are measured without it

    import repel.cli.resolvers  # noqa: F401 - which conf/ uses

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def spread(values: list[float], digits: int = 0) -> str:
    """Median and range, such as `12 (10 to 15)`."""
    middle, low, high = (f"{f(values):,.{digits}f}" for f in (statistics.median, min, max))
    return f"{middle} ({low} to {high})"


def resolved_config(*overrides: str) -> Any:
    """The same with every reference filled in, as the parts of a run are built from it."""
    from omegaconf import OmegaConf

    return OmegaConf.create(OmegaConf.to_container(compose_config(*overrides), resolve=True))


def versions(*packages: str) -> str:
    return ", ".join(f"{name} {version(name)}" for name in packages)


def timed(function: Callable, argument: Any, device: str = "cpu", clock: Callable = time.perf_counter) -> float:
    """Seconds of one call by the clock; on an accelerator until it is done."""
    import torch

    if device != "cpu":
        torch.accelerator.synchronize()
    started = clock()
    function(argument)
    if device != "cpu":
        torch.accelerator.synchronize()
    return clock() - started


def peak_memory() -> int:
    """Bytes of this process's largest resident set so far."""
    if sys.platform == "linux":  # getrusage's may be that of the process which started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """From here on peak_memory() counts anew, where the system can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what was freed is kept, and taken again unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def write_page(name: str, text: str) -> None:
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / name).write_text(text, encoding="utf-8")
