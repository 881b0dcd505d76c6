"""Loss curves of bf16-mixed, fused optimizers and channels_last beside plain float32: docs/benchmarks/precision.md

    python scripts/benchmark_precision.py [--steps 20] [--seeds 3] [--threads 1] [key=value ...]

Steps of Lightning's loop on the bundled data of each modality, the same run twice. Exit status 1 if curves differ by
more than their band. Two minutes on one core; `compile=true`, by --with-compile, takes some more, and a C++ compiler.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from _benchmark import compose_config, versions, write_page
from _gpu_speed import largest_gap
from _training import BARE, fit
from lightning.pytorch import Callback

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal
from repel.data.datamodule import PairData
from repel.engine.build import build_data, build_module

WINDOW = 5  # steps, over which curves are averaged
HALF, ROUNDED = 0.05, 0.01  # bands: of bfloat16, and of what only rounds differently
PRECISION, FUSED = "trainer.precision=bf16-mixed", "optimizer.fused=true"
ORDER, COMPILED = "channels_last=true", "compile=true"
RUNS = {  # name -> overrides
    "images": [],
    "texts, bag of n-grams": ["experiment=text", "optimizer.fused=null"],
    "texts, transformer": ["experiment=text", "optimizer.fused=null", "encoder=transformer"],
    "users and items, table": ["experiment=ssm"],
    "users and items, LightGCN": ["experiment=recommendation"],
    "users and items, two towers": ["experiment=two_tower"],
}
HEAD = """# Precision and rounding

`{command}`: {steps} steps of training on the bundled data, with default options but for what stands in the table,
beside the same steps in plain float32, {seeds} seed(s), {threads} thread(s) of {cores} cores, {versions}.

Loss: the mean of the last {window} steps. Gap: the largest relative difference of the two curves, averaged over
{window} steps, mean ± deviation over seeds; the band is how far the script lets it be. The bag of n-grams, the table of
users and items, and LightGCN, whose graph products are computed in float32, multiply no matrices before the loss, which
is computed in float32 for all: under bf16-mixed their curves are the same bits. What is not bf16-mixed rounds in
another order only, which training amplifies; of one seed.

| run | option | loss, float32 | loss, with it | gap | band | within |
|---|---|---|---|---|---|---|
"""


class Row(NamedTuple):
    plain: list[list[float]]  # of each seed, the loss of each step
    changed: list[list[float]]

    def gaps(self) -> list[float]:
        return [largest_gap(a, b, WINDOW) for a, b in zip(self.plain, self.changed, strict=True)]


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.values.append(module.step_output.loss)


def curve(data: PairData, overrides: list[str], seed: int) -> list[float]:
    """The losses of a run; of a seed's runs with equal options they are equal bits."""
    cfg = compose_config(*overrides, f"seed={seed}")
    module, losses, data.seed = build_module(cfg), Losses(), seed
    module.give_data_info(data.info())
    with tempfile.TemporaryDirectory() as folder:
        fit(cfg, module, data, Path(folder), [losses])
    return torch.stack(losses.values).tolist()


def rows(steps: int, seeds: list[int], with_compile: bool, typed: list[str]) -> Iterator[tuple[str, str, Row]]:
    """Run, option and curves, one after another."""
    for name, chosen in RUNS.items():
        limits = ["trainer.max_epochs=-1", f"trainer.max_steps={steps}", "trainer.accelerator=cpu"]
        plain = [*BARE, *chosen, *limits, *typed]
        data = build_data(compose_config(*plain))
        data.setup()
        usual = [curve(data, plain, seed) for seed in seeds]
        options = [PRECISION, FUSED, *([ORDER] if name == "images" else []), *([COMPILED] if with_compile else [])]
        for option in options:
            some = seeds if option == PRECISION else seeds[:1]
            yield name, option, Row(usual[: len(some)], [curve(data, [*plain, option], seed) for seed in some])


def line(name: str, option: str, row: Row) -> tuple[str, bool]:
    """A line of the table, and whether the gap is within its band."""
    gaps, band = row.gaps(), HALF if option == PRECISION else ROUNDED
    plain, changed = (mean(mean(losses[-WINDOW:]) for losses in found) for found in row)
    spread = f" ± {stdev(gaps):.5f}" if len(gaps) > 1 else ""
    within = max(gaps) <= band
    cells = [name, f"`{option}`", f"{plain:.4f}", f"{changed:.4f}", f"{mean(gaps):.5f}{spread}", f"{band:g}",
             "yes" if within else "**no**"]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n", within


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--with-compile", action="store_true")
    options, typed = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    text = HEAD.format(
        command=" ".join(["python scripts/benchmark_precision.py", *sys.argv[1:]]), steps=options.steps, window=WINDOW,
        seeds=options.seeds, threads=options.threads, cores=usable_cores(),
        versions=versions("torch"),
    )  # fmt: skip
    agree = True
    for found in rows(options.steps, [*range(1, options.seeds + 1)], options.with_compile, typed):
        row, within = line(*found)
        print(row, end="", flush=True)
        text, agree = text + row, agree and within
    write_page("precision.md", text)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
