"""Steps of training: their time, what the host waits for, and bfloat16 beside float32."""

import statistics
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _benchmark import resolved_config, spread
from _gpu_steps import Evidence, Given, Section, peak_bytes, reset_peak
from _training import BARE, fit
from lightning.pytorch import Callback
from torch import Tensor

from repel.data.samples import Splits
from repel.engine.build import build_data, build_module
from repel.images.memory import Images

RESNET = "ResNet-18, CIFAR-10's size"
RUNS = {  # name -> overrides, those of a tiny run
    "default": ([], ["encoder.width=8", "head.out_features=8", "data.batch_size=16"]),
    RESNET: (["experiment=cifar10_simclr"], ["encoder=small", "~encoder.stem", "data.batch_size=16"]),
    "text": (["experiment=text"], ["data.batch_size=16", "encoder.buckets=1000"]),
    "recommendation": (["experiment=recommendation"], ["data.batch_size=64", "encoder.width=8"]),
}
BAND = 0.05  # of the loss, averaged over a window of steps: how far bf16-mixed may be from float32
WAITS = "called a synchronizing CUDA operation"  # torch's words in set_sync_debug_mode("warn")


@dataclass(frozen=True)
class Plan:
    """How many steps warm up, how many windows of how many steps are timed, and in how many waits are counted."""

    warm: int = 20
    windows: int = 5
    length: int = 40
    waits: int = 20

    @property
    def steps(self) -> int:
        return self.warm + self.windows * self.length + self.waits


@dataclass
class Found:
    """seconds: of a step, window by window. waits: of the host, a step; None where torch does not count them. where:
    the lines that wait most. memory: bytes of the accelerator. losses: of each step.
    """

    seconds: list[float] = field(default_factory=list)
    waits: float | None = None
    where: list[str] = field(default_factory=list)
    memory: int | None = None
    losses: list[float] = field(default_factory=list)


class Stopwatch(Callback):
    """Times windows of steps, waiting for the device between them alone; then has torch warn of what waits."""

    def __init__(self, plan: Plan, device: str):
        self.plan, self.device, self.done = plan, device, 0
        self.times: list[float] = []
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.done += 1
        self.losses.append(module.step_output.loss)
        timed = self.done - self.plan.warm
        if 0 <= timed <= self.plan.windows * self.plan.length and timed % self.plan.length == 0:
            if self.device != "cpu":
                torch.accelerator.synchronize()
            self.times.append(time.perf_counter())
        if timed == self.plan.windows * self.plan.length and self.device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_end(self, *_: Any) -> None:
        if self.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")

    def seconds(self) -> list[float]:
        return [(b - a) / self.plan.length for a, b in zip(self.times, self.times[1:], strict=False)]


def made_images(size: int, classes: int = 10, count: int = 25600) -> Splits:
    """Random images, where only the time of a step counts."""
    draws = torch.Generator().manual_seed(0)

    def images(n: int) -> Images:
        return Images(torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=draws),
                      torch.arange(n) % classes)  # fmt: skip

    return Splits(images(count), images(64), images(64), classes=[str(n) for n in range(classes)])


def measure_run(name: str, given: Given, plan: Plan, *more: str) -> Found:
    """A run as train.py trains it, without what is around it."""
    overrides, tiny = RUNS[name]
    where = f"trainer.accelerator={'cpu' if given.device == 'cpu' else 'auto'}"
    limits = [where, f"seed={given.seed}", "trainer.max_epochs=-1", f"trainer.max_steps={plan.steps}"]
    cfg = resolved_config(*overrides, *BARE, *(tiny if given.tiny else []), *limits, *more)
    torch.manual_seed(given.seed)
    module, data = build_module(cfg), build_data(cfg)
    if name == RESNET:
        data.reader = lambda: made_images(32, count=64 if given.tiny else 25600)
    data.setup()
    module.give_data_info(data.info())
    watch = Stopwatch(plan, given.device)
    reset_peak(given.device)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(cfg, module, data, Path(folder), [watch])
    found = Found(watch.seconds(), memory=peak_bytes(given.device), losses=torch.stack(watch.losses).tolist())
    if given.device == "cuda":
        lines = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if WAITS in str(w.message))
        found.waits = lines.total() / plan.waits
        found.where = [f"{line} ({count / plan.waits:g})" for line, count in lines.most_common(3)]
    return found


def plan_of(given: Given) -> Plan:
    return Plan(1, 2, 1, 1) if given.tiny else Plan()


def speed(given: Given) -> Evidence:
    plan = plan_of(given)
    words = (
        f"Training steps as train.py makes them, without monitoring, validation and checkpoints: median (and range) of "
        f"{plan.windows} windows of {plan.length} steps after {plan.warm}. Waits: how often the host waits for the "
        f"device in a step, counted by `torch.cuda.set_sync_debug_mode` over {plan.waits} steps, and the lines that do."
    )
    head = ["run", "ms a step", "waits a step", "where", "memory, MiB"]
    section, complete = Section("Time of a step and waits of the host", words, head), True
    for name in RUNS:
        if given.left() < 0:
            complete = False
            section.rows.append([name, "left out: no time", "-", "-", "-"])
            continue
        found = measure_run(name, given, plan)
        waits = "not counted" if found.waits is None else f"{found.waits:g}"
        memory = "-" if found.memory is None else f"{found.memory / 2**20:,.0f}"
        cells = [spread([1e3 * s for s in found.seconds], 2), waits, ", ".join(found.where) or "-", memory]
        section.rows.append([name, *cells])
    return Evidence([section], complete=complete)


def largest_gap(a: list[float], b: list[float], window: int) -> float:
    """Of two loss curves, averaged over windows of steps, relative to the first. NaN where one is not finite."""

    def means(values: list[float]) -> Tensor:
        kept = len(values) // window * window
        return torch.tensor(values[:kept], dtype=torch.float64).view(-1, window).mean(1)

    first, second = means(a), means(b)
    return float(((second - first).abs() / first.abs()).max())


def precision(given: Given) -> Evidence:
    plan, agree, complete = plan_of(given), True, True
    window = 2 if given.tiny else 20
    words = (
        f"The same run in both precisions, with the same seed: {plan.steps} steps. Gap: the largest difference of the "
        f"two loss curves, averaged over {window} steps, relative to float32's; within means at most {BAND:g}. Time: "
        f"median (and range) of {plan.windows} windows."
    )
    head = ["run", "float32, ms a step", "bf16-mixed, ms a step", "times as fast", "memory, share", "gap", "within"]
    section = Section("bf16-mixed beside float32", words, head)
    for name in ("default", RESNET, "text"):
        if given.left() < 0:
            complete = False
            section.rows.append([name, "left out: no time", *["-"] * 5])
            continue
        full, half = (measure_run(name, given, plan, f"trainer.precision={p}") for p in ("32-true", "bf16-mixed"))
        gap = largest_gap(full.losses, half.losses, window)
        agree &= gap <= BAND
        faster = statistics.median(full.seconds) / statistics.median(half.seconds)
        memory = f"{half.memory / full.memory:.2f}" if half.memory and full.memory else "-"
        times = [spread([1e3 * s for s in found.seconds], 2) for found in (full, half)]
        section.rows.append([name, *times, f"{faster:.2f}", memory, f"{gap:.3f}", "yes" if gap <= BAND else "**no**"])
    return Evidence([section], agree, complete)
