"""The share of a training step that monitoring and the checks of every step take: docs/benchmarks/monitor.md

    python scripts/benchmark_monitor.py [windows] [key=value ...]

One run of the default config, with its callbacks active in every other window of steps, so that both cases are measured
on the same network and in the same minutes. A window is as long as the interval between two measurements and contains
one of each callback. The bundled images are repeated, so that no epoch ends during the run. On a CPU, time is the
process's CPU time, which other processes disturb little; on a GPU it is synchronized wall time.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import dataclasses
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from _benchmark import versions, write_page
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf

import repel.cli.resolvers  # noqa: F401 - which conf/ uses
from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal
from repel.engine.agreement import RankAgreement
from repel.engine.build import build_data, build_module, build_trainer
from repel.engine.configs import CONF
from repel.images.memory import Images

CHECKS, WATCHING = "checks", "Monitor and Health"
QUIET = ["callbacks.knn=null", "callbacks.progress=null", "callbacks.pairs=null", "callbacks.monitor=null"]
QUIET += ["callbacks.health=null", "trainer.max_epochs=1"]

HEAD = """# The cost of monitoring

`{command}`, {where}.

Medians over windows of steps, alternately with the callbacks and without. A window is as long as the interval between
two measurements. Difference: a window with callbacks relative to the mean of its two neighbors, with the standard error
of the median. Hooks: time inside the callbacks' own hooks as a share of the window, with its range.

The checks of every step are that no signal arrived and that the loss is finite. Monitor and Health are
`callbacks.monitor` and `callbacks.health`.

| callbacks | batch | without, ms per step | with, ms per step | difference | hooks | windows |
|---|---|---|---|---|---|---|
"""


class EveryOtherWindow(Callback):
    """Forwards its hooks to the callbacks in odd windows; records the time of every window, and of the hooks in it."""

    def __init__(self, watching: list[Callback], windows: int):
        self.watching, self.windows, self.times, self.hooks = watching, windows, [], []
        self.started, self.within, self.cuda = None, 0.0, torch.cuda.is_available()

    def clock(self) -> float:
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_batch_start(self, trainer, *args) -> None:
        # half a window off, so that what follows a logged step is within its window
        if trainer.global_step % trainer.log_every_n_steps == trainer.log_every_n_steps // 2:
            now = self.clock()
            if self.started is not None:
                self.times.append(now - self.started)
                self.hooks.append(self.within)
            self.started, self.within, trainer.should_stop = now, 0.0, len(self.times) > self.windows
        self.hand_on("on_train_batch_start", trainer, *args)

    def hand_on(self, hook: str, *args) -> None:
        if len(self.times) % 2:
            started = self.clock()
            for callback in self.watching:
                getattr(callback, hook)(*args)
            self.within += self.clock() - started

    def on_before_backward(self, *args) -> None:
        self.hand_on("on_before_backward", *args)

    def on_after_backward(self, *args) -> None:
        self.hand_on("on_after_backward", *args)

    def on_before_optimizer_step(self, *args) -> None:
        self.hand_on("on_before_optimizer_step", *args)

    def on_train_batch_end(self, *args) -> None:
        self.hand_on("on_train_batch_end", *args)


def configs(overrides: list[str]) -> tuple[DictConfig, list[Callback]]:
    """The config of a run without the two callbacks, and the callbacks."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = compose("train", overrides=[*overrides, *QUIET])
        callbacks = compose("train", overrides=overrides).callbacks
        watching = [instantiate(callbacks.monitor), instantiate(callbacks.health)]
    return OmegaConf.create(OmegaConf.to_container(plain, resolve=True)), watching


def measure(what: str, windows: int, overrides: list[str]) -> str:
    """One row of the table."""
    cfg, watching = configs(overrides)
    with tempfile.TemporaryDirectory() as folder:
        module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg, Path(folder), None)
        data.trainer = trainer
        data.setup()
        train = data.splits.train
        times = (windows + 3) * trainer.log_every_n_steps * data.batch_size // len(train) + 1
        repeated = Images(train.pixels.repeat(times, 1, 1, 1), train.labels.repeat(times))
        data.splits = dataclasses.replace(data.splits, train=repeated)
        together = next(callback for callback in trainer.callbacks if isinstance(callback, RankAgreement))
        alternate = EveryOtherWindow([together] if what == CHECKS else watching, windows)
        if what == CHECKS:
            trainer.callbacks.remove(together)
        trainer.callbacks.insert(0, alternate)
        trainer.limit_val_batches = 0
        trainer.fit(module, data)
        every = trainer.log_every_n_steps
    seconds = alternate.times[2:]  # the first two warm up
    off, on = seconds[0::2], seconds[1::2]
    hooks = [100 * h / t for h, t in zip(alternate.hooks[3::2], on, strict=True)]
    ratios = [100 * (b / ((a + c) / 2) - 1) for a, b, c in zip(off, on, off[1:], strict=False)]
    error = 1.25 * statistics.stdev(ratios) / len(ratios) ** 0.5  # of a median
    row = (
        f"| {what} | {data.batch_size} "
        f"| {1e3 * statistics.median(off) / every:.1f} | {1e3 * statistics.median(on) / every:.1f} "
        f"| {statistics.median(ratios):+.1f} ± {error:.1f} % "
        f"| {statistics.median(hooks):.2f} % ({min(hooks):.2f} to {max(hooks):.2f}) | {len(ratios)} |"
    )
    print(row, flush=True)
    return row


@ends_on_signal
def main() -> int:
    arguments = sys.argv[1:]
    windows = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 24
    if any("=" not in a for a in arguments):
        print("error: usage: python scripts/benchmark_monitor.py [windows] [key=value ...]", file=sys.stderr)
        return 2
    few, large = max(6, windows // 4), [*arguments, "data.batch_size=1024"]
    rows = [measure(CHECKS, windows, arguments), measure(WATCHING, windows, arguments), measure(WATCHING, few, large)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU thread(s)"
    command = " ".join(["python scripts/benchmark_monitor.py", str(windows), *arguments])
    where = f"{device} of {usable_cores()} cores, Python {platform.python_version()}, {versions('torch')}"
    write_page("monitor.md", HEAD.format(command=command, where=where) + "\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
