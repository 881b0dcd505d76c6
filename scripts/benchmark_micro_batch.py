"""Memory and time of a batch beyond memory, encoded in micro-batches: docs/benchmarks/micro_batch.md

    python scripts/benchmark_micro_batch.py [--steps 3] [--threads 1] [--batch 4096] [--part 256] [key=value ...]

Lightning's loop on the bundled images, with the default encoder: a batch of the size of the part, the large batch in
parts, and the large batch at once, each in a process of its own. What is around training is left out. Two minutes.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from _benchmark import compose_config, versions, write_page

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal

HEAD = """# The cost of a batch beyond memory

`{command}`: training steps on the bundled images, {model}, float32, 2 views,
{threads} thread(s) of {cores} cores, {versions}. Each row is a process of its own.

Memory: how far the process's largest resident size (VmHWM) rises from before training on. As a heap grows while it is
used again and again, all rows encode as many samples: {steps} steps of the large batch after the first, and of the
small one so many more. CPU seconds of a step: the median, views included. Embeddings: of all views the features, the
embeddings z, their unit vectors, and the gradient. The views of the whole batch are made before it is divided: 25 MB of
4,096 images of 28 pixels.

A batch in parts has the gradient of the whole (tests/engine/test_micro_batch.py); batch norm, which the default encoder
has, takes its statistics of a part.

| batch | `data.micro_batch` | memory, MB | of it embeddings, MB | CPU seconds a step | a sample, ms |
|---|---|---|---|---|---|
"""


def resident(key: str = "VmHWM") -> float:
    """MB of this process: its largest so far, or with VmRSS that of now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def measure(steps: int, threads: int, overrides: list[str]) -> dict[str, Any]:
    """One row, in this process."""
    import torch
    from _training import BARE, fit
    from lightning.pytorch import Callback

    from repel.engine.build import build_data, build_module

    torch.set_num_threads(threads)
    starts: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            starts.append(time.process_time())

    cfg = compose_config(*BARE, f"trainer.max_steps={steps + 1}", "trainer.max_epochs=-1", "trainer.accelerator=cpu",
                         "data.val_fraction=0.01", *overrides)  # fmt: skip
    module, data = build_module(cfg), build_data(cfg)
    data.setup()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the largest size counts from here on
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        fit(cfg, module, data, Path(folder), [Clock()])
    seconds = [b - a for a, b in pairwise(starts)]
    numbers = 2 * cfg.data.batch_size * (module.encoder.out_features + 3 * cfg.head.out_features)
    return {"memory": resident() - before, "embeddings": 4 * numbers / 2**20, "seconds": statistics.median(seconds),
            "parameters": sum(p.numel() for p in module.parameters())}  # fmt: skip


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--part", type=int, default=256)
    parser.add_argument("--here", action="store_true", help="measure what is typed, in this process")
    options, overrides = parser.parse_known_args()
    if options.here:
        print(json.dumps(measure(options.steps, options.threads, overrides)))
        return 0
    rows, found = [(options.part, None), (options.batch, options.part), (options.batch, None)], {}
    for batch, part in rows:
        steps = options.steps * (options.batch // batch)
        typed = [f"data.batch_size={batch}", f"data.micro_batch={'null' if part is None else part}", *overrides]
        command = [sys.executable, __file__, "--here", f"--steps={steps}", f"--threads={options.threads}"]
        found[batch, part] = json.loads(subprocess.check_output([*command, *typed], encoding="utf-8").splitlines()[-1])
        print(batch, part, found[batch, part], flush=True)
    text = HEAD.format(
        command=" ".join(["python scripts/benchmark_micro_batch.py", *sys.argv[1:]]), steps=options.steps,
        model=f"a model of {found[rows[0]]['parameters']:,} parameters", threads=options.threads, cores=usable_cores(),
        versions=versions("torch"),
    )  # fmt: skip
    for (batch, part), row in found.items():
        cells = [f"{batch:,}", "null" if part is None else part, f"{row['memory']:,.0f}", f"{row['embeddings']:,.0f}"]
        cells += [f"{row['seconds']:,.2f}", f"{1000 * row['seconds'] / batch:.2f}"]
        text += "| " + " | ".join(map(str, cells)) + " |\n"
    write_page("micro_batch.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
