"""Views per second beside torchvision, lightly and kornia; what the fused path leaves out; how long training waits.

    pip install -e '.[benchmark]'
    python scripts/benchmark_views.py [--rounds 7] [--folder DIR]

One core, the same parameters for all, uint8 images in memory to normalised float views; the rivals take turns, round
by round, in one run. On a GPU, if there is one, kornia and repel besides. --folder DIR, photographs as
data=image_folder takes them, is what the difference between the two colour paths is measured on, and training that
decodes files.
Writes docs/benchmarks/views.md and views.png.
"""

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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs/benchmarks/views.md"
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
CHAINS = {  # preset -> scale, colour strength s, probability of a blur
    "simclr_no_blur": (0.2, 0.5, 0.0),
    "simclr": (0.08, 1.0, 0.5),
}
NAMES = {
    "v1": "torchvision v1, PIL, image by image",
    "v2": "torchvision v2, tensors, image by image",
    "lightly": "lightly `SimCLRTransform`",
    "kornia": "kornia `AugmentationSequential`, batch",
    "exact-image": "repel, `views.color=exact views.order=image`",
    "exact": "repel, `views.color=exact`",
    "fused": "repel, `views.color=fused`",
}
SIZES = [(32, 32, 256), (256, 224, 16)]  # of the image, of the view, images in a batch


def composed(*overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["data=cifar10", *overrides])


def rival(name: str, chain: str, size: int) -> Callable[[Tensor], object]:
    """A function of uint8 images (B, 3, H, W) -> one view of each; what it prepares is not timed."""
    scale, s, blur = CHAINS[chain]
    kernel = max(3, int(0.1 * size) // 2 * 2 + 1)
    strength = (0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)
    if name in ("v1", "v2"):
        if name == "v1":
            import torchvision.transforms as T

            last = [T.ToTensor(), T.Normalize(MEAN, STD)]
        else:
            import torchvision.transforms.v2 as T

            last = [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)]
        steps = [T.RandomResizedCrop(size, (scale, 1.0)), T.RandomHorizontalFlip(),
                 T.RandomApply([T.ColorJitter(*strength)], 0.8), T.RandomGrayscale(0.2)]  # fmt: skip
        steps += [T.RandomApply([T.GaussianBlur(kernel, (0.1, 2.0))], blur)] if blur else []
        transform = T.Compose(steps + last)
        return lambda images: [transform(image) for image in images]
    if name == "lightly":
        from lightly.transforms import SimCLRTransform

        two = SimCLRTransform(size, cj_strength=s, min_scale=scale, gaussian_blur=blur)
        transform = two.transforms[0]
        return lambda images: [transform(image) for image in images]
    if name == "kornia":
        import kornia.augmentation as K

        steps = [K.RandomResizedCrop((size, size), scale=(scale, 1.0)), K.RandomHorizontalFlip(),
                 K.ColorJitter(*strength, p=0.8), K.RandomGrayscale(p=0.2)]  # fmt: skip
        steps += [K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=blur)] if blur else []
        chained = K.AugmentationSequential(*steps, K.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
        return lambda images: chained(images.float() / 255)
    path, _, order = name.partition("-")
    views = instantiate(
        composed(f"views={chain}", f"views.color={path}", f"views.order={order or 'batch'}",
                 f"data.image_size={size}", f"views.augmentation.scale=[{scale},1.0]").views
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    return lambda images: views(images, generator)


def inputs(name: str, batch: int, size: int, device: str = "cpu"):
    images = torch.randint(
        0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    if name in ("v1", "lightly"):
        from torchvision.transforms.functional import to_pil_image

        return [to_pil_image(image) for image in images]
    return images.to(device)


def timed(function: Callable, images, device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    function(images)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def speeds(chain: str, source: int, size: int, batch: int, rounds: int, device: str) -> dict[str, list[float]]:
    """Views per second of each rival, once a round; all take turns. repel makes two views of each image at a time."""
    names = [n for n in NAMES if device == "cpu" or n not in ("v1", "v2", "lightly")]
    rivals = {n: (rival(n, chain, size), inputs(n, batch, source, device)) for n in names}
    made: dict[str, list[float]] = {n: [] for n in names}
    for number in range(rounds + 1):
        for name, (function, images) in rivals.items():
            views = batch * (2 if name.startswith(("exact", "fused")) else 1)
            repeat = max(1, round(1024 / views)) if source < 100 and name not in ("v1", "v2", "lightly") else 1
            seconds = min(timed(function, images, device) for _ in range(repeat))
            if number:  # the first warms up
                made[name].append(views / seconds)
        print(chain, size, device, number, {n: round(v[-1]) for n, v in made.items() if v}, flush=True)
    return made


def by_batch(rounds: int) -> dict[int, list[float]]:
    """Views per second of the exact path by batch size."""
    function, sizes = rival("exact", "simclr_no_blur", 32), (64, 256, 1024, 4096)
    made: dict[int, list[float]] = {n: [] for n in sizes}
    for number in range(rounds + 1):
        for n in sizes:
            seconds = timed(function, inputs("exact", n, 32), "cpu")
            if number:
                made[n].append(2 * n / seconds)
    return made


def difference(folder: str | None, chain: str) -> str:
    """Of the same draws, the fused view from the exact one, in grey levels of 255."""
    if folder is None:
        return "not measured: run with --folder DIR"
    options = [f"views={chain}", "data=image_folder", f"data.root={folder}", "data.batch_size=1000"]
    made, sizes = {}, {}
    for path in ("exact", "fused"):
        cfg = composed(*options, f"views.color={path}", "views.order=image")
        data = instantiate(cfg.data.datamodule)
        data.setup()
        from repel.images.contact_sheet import preview

        views = preview(data, 1000).views
        std = torch.tensor(cfg.data.std).view(-1, 1, 1)
        made[path], sizes = torch.cat(views) * std * 255, len(data.splits.train)
    gap = (made["exact"] - made["fused"]).abs()
    one, other = (made[path].flatten() for path in ("exact", "fused"))
    correlation = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
    share = [float((gap < level).float().mean()) for level in (1, 10)]
    return (
        f"mean {gap.mean():.1f}, median {gap.median():.2f}; {share[0]:.0%} of the values differ by less than 1, "
        f"{share[1]:.0%} by less than 10; correlation {correlation:.3f} (1,000 of {sizes:,} images, two views each)"
    )


def trained(*overrides: str) -> dict[str, float]:
    """Metrics of a training run, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            *overrides,
            "trainer.max_epochs=2",
            f"hydra.run.dir={folder}/run",
        ]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads((Path(folder) / "run/metrics.json").read_text())


def seconds_of_views(path: str) -> float:
    """Seconds that the views of a batch of the default run take."""
    cfg = composed("data=fashion_mini", f"views.color={path}")
    data = instantiate(cfg.data.datamodule)
    data.setup()
    images = data.splits.train.pixels[: cfg.data.batch_size]
    generator = torch.Generator().manual_seed(0)
    return statistics.median(timed(lambda x: data.views(x, generator), images, "cpu") for _ in range(30))


def spread(values: list[float], digits: int = 0) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for source, size, batch in SIZES:
            for chain in CHAINS if size < 100 else ["simclr"]:
                n = batch if device == "cpu" else 16 * batch
                results[device, chain, source, size, n] = speeds(chain, source, size, n, options.rounds, device)
    batches = by_batch(options.rounds)
    gaps = {chain: difference(options.folder, chain) for chain in CHAINS}
    torch.set_num_threads(threads)
    runs = {"the default (`python train.py`)": trained()}
    runs["`views.color=fused`"] = trained("views.color=fused")
    if options.folder:
        files = [
            "data=image_folder",
            f"data.root={options.folder}",
            "trainer.limit_train_batches=40",
            "evaluation.bank=500",
        ]
        runs["`data=image_folder`, held in memory"] = trained(*files)
        runs["`data=image_folder data.in_memory=false`"] = trained(*files, "data.in_memory=false")
    seconds = {path: seconds_of_views(path) for path in ("exact", "fused")}
    write(results, batches, gaps, runs, seconds, options)
    plot(results)


HEAD = """# Views

`python scripts/benchmark_views.py --rounds {rounds}{folder}` on one of {cores} CPU cores ({machine}),
{versions}.
uint8 images in memory to normalised float32 views, the same parameters for all; median (and range) over rounds in which
all take turns; ratios are of the same round.

![views per second](views.png)
"""

DIFFERENCE = """
## What the fused path leaves out

Values are clamped once, and hue is turned about the gray axis (`src/repel/images/views/fused.py`). Of the same draws on
photographs of 32 pixels, the difference of the two paths in grey levels of 255:

"""

TRAINING = """
## In training

Two epochs, all cores. Waiting is the time from the end of a step to the batch's arrival in memory; making the views is
part of the step: for a batch of the default {exact:.1f} ms exact, {fused:.1f} ms fused.

| run | images/s | data wait, share of the step | views, share of the step |
|---|---|---|---|
"""


def table(made: dict[str, list[float]]) -> list[str]:
    against = [n for n in ("v1", "kornia") if n in made]
    lines = ["| | views/s | " + " | ".join(f"times {NAMES[n].split(',')[0]}" for n in against) + " |"]
    lines += ["|---|---|" + "---|" * len(against)]
    for name, values in made.items():
        ratios = [spread([a / b for a, b in zip(values, made[n], strict=True)], 1) for n in against]
        lines.append(f"| {NAMES[name]} | {spread(values)} | " + " | ".join(ratios) + " |")
    return lines


def write(results: dict, batches: dict, gaps: dict, runs: dict, seconds: dict, options: argparse.Namespace) -> None:
    packages = ("torch", "torchvision", "lightly", "kornia", "pillow")
    text = HEAD.format(
        rounds=options.rounds, folder=" --folder DIR" if options.folder else "", cores=os.cpu_count(),
        machine=platform.machine(), versions=", ".join(f"{name} {version(name)}" for name in packages),
    )  # fmt: skip
    for (device, chain, source, size, batch), made in results.items():
        lines = ["", f"## `views={chain}`, {source} to {size} pixels, batch {batch}, {device}", "", *table(made)]
        text += "\n".join(lines) + "\n"
    text += "\n## By batch size\n\n`views.color=exact`, `simclr_no_blur`, 32 pixels, one core:\n\n"
    text += "| images | views/s |\n|---|---|\n" + "".join(f"| {n:,} | {spread(v)} |\n" for n, v in batches.items())
    text += DIFFERENCE + "".join(f"- `{chain}`: {words}\n" for chain, words in gaps.items())
    text += TRAINING.format(**{path: 1000 * s for path, s in seconds.items()})
    for name, metrics in runs.items():
        speed, wait = metrics["speed/samples_per_second"], metrics["speed/data_wait_fraction"]
        share = seconds["fused" if "fused" in name else "exact"] * speed / 128
        text += f"| {name} | {speed:,.0f} | {wait:.2%} | {'-' if 'folder' in name else f'{share:.1%}'} |\n"
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(4.6 * len(results), 3.4), squeeze=False)
    for axis, ((device, chain, source, size, _), made) in zip(axes[0], results.items(), strict=True):
        names = [n for n in NAMES if n in made]
        middle = [statistics.median(made[n]) for n in names]
        error = [[m - min(made[n]) for n, m in zip(names, middle, strict=True)],
                 [max(made[n]) - m for n, m in zip(names, middle, strict=True)]]  # fmt: skip
        colors = ["C0" if n.startswith(("exact", "fused")) else "0.6" for n in names]
        axis.barh(range(len(names)), middle, xerr=error, color=colors)
        axis.set_yticks(range(len(names)), [NAMES[n].replace("`", "").replace("views.", "") for n in names], fontsize=7)
        axis.invert_yaxis()
        axis.set(xscale="log", xlabel="views/s", title=f"{chain}, {source} -> {size}, {device}")
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(TARGET.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
