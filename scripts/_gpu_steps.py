"""Shared by the steps of gpu_evidence.py: what they are given, and the tables that they return."""

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _benchmark import versions

__all__ = ["Evidence", "Given", "LeftOut", "Section", "machine", "peak_bytes", "reset_peak"]


@dataclass
class Given:
    """What a step is given.

    device: cpu, or an accelerator's name. tiny: sizes that take a CPU no time.
    ends: time.monotonic() at which the step must be done.
    cifar, gowalla: folders, or None.
    """

    device: str
    tiny: bool
    ends: float
    seed: int = 1
    cifar: Path | None = None
    gowalla: Path | None = None

    def left(self) -> float:
        return self.ends - time.monotonic()


@dataclass
class Section:
    """A table with words before it."""

    title: str
    words: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        table = [self.head, ["---"] * len(self.head), *self.rows]
        return [f"### {self.title}", "", self.words, "", *(f"| {' | '.join(row)} |" for row in table), ""]


@dataclass
class Evidence:
    """What a step found.

    agrees: whether all that has a tolerance is within it; None: nothing has one. complete: whether nothing was left out
    for want of time; if it was, the next call repeats the step.
    """

    sections: list[Section]
    agrees: bool | None = None
    complete: bool = True


class LeftOut(Exception):
    """A step cannot be made here; the reason in a line."""


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    found = {"device": device, "name": device, "driver": "-", "versions": versions("torch", "lightning")}
    if device == "cpu":
        return found
    if device in ("cuda", "xpu"):
        found["name"] = torch.get_device_module(device).get_device_name()
    if device == "cuda":
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        result = subprocess.run(asked, capture_output=True, encoding="utf-8", check=False)
        found["driver"] = result.stdout.splitlines()[0] if result.returncode == 0 else "not known"
    return found


def reset_peak(device: str) -> None:
    if device != "cpu":
        torch.accelerator.reset_peak_memory_stats()


def peak_bytes(device: str) -> int | None:
    """The most that torch had allocated on the accelerator; None on a CPU, which does not count it."""
    return None if device == "cpu" else torch.accelerator.max_memory_allocated()
