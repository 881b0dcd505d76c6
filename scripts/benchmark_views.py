"""Views per second, compared with torchvision, lightly and kornia; what the fused path changes; data wait in training.

    pip install -e '.[benchmark]'
    python scripts/benchmark_views.py [--rounds 7] [--folder DIR]

One core, the same parameters for all, from uint8 images in memory to normalized float views. All libraries take turns,
round by round, in one process. Speeds on the CPU are per second of its time, which other processes disturb least. If
there is a GPU, kornia and repel are measured on it too. --folder DIR holds photographs, as data=image_folder takes
them: the two color paths are compared on them, and training that decodes files is measured.
Writes docs/benchmarks/views.md and views.png; --only 224 measures views of 224 pixels and writes their tables anew.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from _benchmark import PAGES, ROOT, compose_config, spread, timed, versions, write_page
from _view_plot import plot
from _view_rivals import IMAGE_BY_IMAGE, NAMES, PRESETS, make_images, make_rival
from hydra.utils import instantiate

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal

SIZES = [(32, 32, 256), (256, 224, 16)]  # of the image, of the view, images in a batch


def measure_speeds(preset: str, source: int, size: int, batch: int, rounds: int, device: str) -> dict[str, list[float]]:
    """Views per second of each library, once per round, in turn. repel makes two views of each image at a time."""
    names = [n for n in NAMES if device == "cpu" or n not in IMAGE_BY_IMAGE]
    rivals = {n: (make_rival(n, preset, size), make_images(n, batch, source, device)) for n in names}
    speeds: dict[str, list[float]] = {n: [] for n in names}
    clock = time.process_time if device == "cpu" else time.perf_counter
    for number in range(rounds + 1):
        for name, (function, images) in rivals.items():
            views = batch * (2 if name.startswith(("exact", "fused")) else 1)
            repeat = max(1, round(1024 / views)) if source < 100 and name not in IMAGE_BY_IMAGE else 1
            seconds = min(timed(function, images, device, clock) for _ in range(repeat))
            if number:  # the first warms up
                speeds[name].append(views / seconds)
        print(preset, size, device, number, {n: round(v[-1]) for n, v in speeds.items() if v}, flush=True)
    return speeds


def measure_batch_sizes(rounds: int) -> dict[int, list[float]]:
    """Views per second of the exact path by batch size."""
    function, sizes = make_rival("exact", "simclr_no_blur", 32), (64, 256, 1024, 4096)
    speeds: dict[int, list[float]] = {n: [] for n in sizes}
    for number in range(rounds + 1):
        for n in sizes:
            seconds = timed(function, make_images("exact", n, 32))
            if number:
                speeds[n].append(2 * n / seconds)
    return speeds


def compare_paths(folder: str | None, preset: str) -> str:
    """The difference of the fused view from the exact one, for the same draws, in gray levels of 255."""
    if folder is None:
        return "not measured: run with --folder DIR"
    options = [f"views={preset}", "data=image_folder", f"data.root={folder}", "data.batch_size=1000"]
    values, images = {}, 0
    for path in ("exact", "fused"):
        cfg = compose_config(*options, f"views.color={path}", "views.order=image")
        data = instantiate(cfg.data.datamodule)
        data.setup()
        from repel.images.contact_sheet import preview

        views = preview(data, 1000).views
        std = torch.tensor(cfg.data.std).view(-1, 1, 1)
        values[path], images = torch.cat(views) * std * 255, len(data.splits.train)
    gap = (values["exact"] - values["fused"]).abs()
    correlation = float(torch.corrcoef(torch.stack([v.flatten() for v in values.values()]))[0, 1])
    share = [float((gap < level).float().mean()) for level in (1, 10)]
    return (
        f"mean {gap.mean():.1f}, median {gap.median():.2f}; {share[0]:.0%} of the values differ by less than 1, "
        f"{share[1]:.0%} by less than 10; correlation {correlation:.3f} (1,000 of {images:,} images, two views each)"
    )


def train(*overrides: str) -> dict[str, float]:
    """Metrics of a training run, in another process."""
    with tempfile.TemporaryDirectory() as folder:
        options = [*overrides, "trainer.max_epochs=2", f"hydra.run.dir={folder}/run"]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *options], check=True, capture_output=True)
        return json.loads((Path(folder) / "run/metrics.json").read_text(encoding="utf-8"))


def measure_training(folder: str | None) -> dict[str, dict[str, float]]:
    """What was run, in words -> its metrics."""
    runs = {
        "the default (`python train.py`)": train(),
        "`views.color=fused`": train("views.color=fused"),
    }
    if folder:
        files = ["data=image_folder", f"data.root={folder}", "trainer.limit_train_batches=40", "evaluation.bank=500"]
        runs["`data=image_folder`, held in memory"] = train(*files)
        runs["`data=image_folder data.in_memory=false`"] = train(*files, "data.in_memory=false")
    return runs


def seconds_per_batch(path: str) -> float:
    """Seconds that the views of a batch of the default run take."""
    cfg = compose_config("data=fashion_mini", f"views.color={path}")
    data = instantiate(cfg.data.datamodule)
    data.setup()
    images = data.splits.train.pixels[: cfg.data.batch_size]
    generator = torch.Generator().manual_seed(0)
    return statistics.median(timed(lambda x: data.views(x, generator), images) for _ in range(30))


@ends_on_signal
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder")
    parser.add_argument("--only", type=int, choices=[size for _, size, _ in SIZES], help="views of so many pixels")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for source, size, batch in (sizes for sizes in SIZES if options.only in (None, sizes[1])):
            for preset in PRESETS if size < 100 else ["simclr"]:
                n = batch if device == "cpu" else 16 * batch
                results[device, preset, source, size, n] = measure_speeds(
                    preset, source, size, n, options.rounds, device
                )
    if options.only:
        replace(results, options)
    else:
        batches = measure_batch_sizes(options.rounds)
        gaps = {preset: compare_paths(options.folder, preset) for preset in PRESETS}
        torch.set_num_threads(threads)
        runs = measure_training(options.folder)
        seconds = {path: seconds_per_batch(path) for path in ("exact", "fused")}
        write(results, batches, gaps, runs, seconds, options)
    plot()


HEAD = """# Views

`python scripts/benchmark_views.py --rounds {rounds}{folder}` on one of {cores} CPU cores ({machine}),
{versions}.
From uint8 images in memory to normalized float32 views, the same parameters for all; median (and range) over rounds in
which all take turns; ratios are within a round. On a CPU, seconds are of its own time.

![views per second](views.png)
"""

HEADING = "## `views={}`, {} to {} pixels, batch {}, {}"

DIFFERENCE = """
## What the fused path changes

Values are clamped once, and hue is rotated about the gray axis (`src/repel/images/views/fused.py`). For the same draws
on photographs of 32 pixels, the difference between the two paths, in gray levels of 255:

"""

TRAINING = """
## In training

Two epochs, all cores. Data wait is the time from the end of a step to the batch's arrival in memory. Making the views
is part of the step: for a batch of the default it takes {exact:.1f} ms exact, {fused:.1f} ms fused.

| run | images/s | data wait, share of the step | views, share of the step |
|---|---|---|---|
"""


def table(speeds: dict[str, list[float]]) -> list[str]:
    against = [n for n in ("v1", "kornia") if n in speeds]
    lines = ["| | views/s | " + " | ".join(f"times {NAMES[n].split(',')[0]}" for n in against) + " |"]
    lines += ["|---|---|" + "---|" * len(against)]
    for name, values in speeds.items():
        ratios = [spread([a / b for a, b in zip(values, speeds[n], strict=True)], 1) for n in against]
        lines.append(f"| {NAMES[name]} | {spread(values)} | " + " | ".join(ratios) + " |")
    return lines


def write(results: dict, batches: dict, gaps: dict, runs: dict, seconds: dict, options: argparse.Namespace) -> None:
    text = HEAD.format(
        rounds=options.rounds, folder=" --folder DIR" if options.folder else "", cores=usable_cores(),
        machine=platform.machine(), versions=versions("torch", "torchvision", "lightly", "kornia", "pillow"),
    )  # fmt: skip
    for (device, preset, source, size, batch), speeds in results.items():
        lines = ["", HEADING.format(preset, source, size, batch, device), "", *table(speeds)]
        text += "\n".join(lines) + "\n"
    text += "\n## By batch size\n\n`views.color=exact`, `simclr_no_blur`, 32 pixels, one core:\n\n"
    text += "| images | views/s |\n|---|---|\n" + "".join(f"| {n:,} | {spread(v)} |\n" for n, v in batches.items())
    text += DIFFERENCE + "".join(f"- `{preset}`: {words}\n" for preset, words in gaps.items())
    text += TRAINING.format(**{path: 1000 * s for path, s in seconds.items()})
    for name, metrics in runs.items():
        speed, wait = metrics["speed/samples_per_second"], metrics["speed/data_wait_fraction"]
        share = seconds["fused" if "fused" in name else "exact"] * speed / 128
        text += f"| {name} | {speed:,.0f} | {wait:.2%} | {'-' if 'folder' in name else f'{share:.1%}'} |\n"
    write_page("views.md", text)


def replace(results: dict, options: argparse.Namespace) -> None:
    """These tables of the page, written anew, with how they were measured."""
    text = (PAGES / "views.md").read_text(encoding="utf-8")
    how = (
        f"Measured apart, by `--only {options.only} --rounds {options.rounds}`; on a CPU, seconds are of its own time. "
        f"The load average was {os.getloadavg()[2]:.0f} on {usable_cores()} cores."
    )
    for (device, preset, source, size, batch), speeds in results.items():
        heading = HEADING.format(preset, source, size, batch, device)
        if heading not in text:  # of a device that was not measured before
            text = text.replace("## By batch size", f"{heading}\n\n## By batch size")
        before, _, rest = text.partition(f"{heading}\n")
        text = "\n".join([f"{before}{heading}", "", how, "", *table(speeds), "", rest[rest.index("## ") :]])
    write_page("views.md", text)


if __name__ == "__main__":
    sys.exit(main())
