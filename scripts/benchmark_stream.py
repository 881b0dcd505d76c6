"""Memory while streaming: an epoch over a million tiny images in shards.

    pip install -e '.[stream]'
    python scripts/benchmark_stream.py [--samples 1000000] [--workers 1]

Packs the images (8x8, gray, stored as PGM), then reads each of them once through the datamodule, with crops and views,
as in training. Writes the memory of the main process and its workers over time to docs/benchmarks/stream.md. Mapped
files, the shards themselves, are not counted.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _benchmark import compose_config, versions, write_page
from hydra.utils import instantiate

from repel.base import seeding
from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal
from repel.data.sampler import GlobalBatches

POINTS = 10  # measurements


def pack(folder: Path, samples: int) -> None:
    from litdata.streaming import Cache

    warnings.filterwarnings("ignore", message="An item was larger")
    rng = np.random.default_rng(0)
    for name, count in (("train", samples), ("val", 100), ("test", 100)):
        shards = Cache(str(folder / name), chunk_bytes="256KB")
        for i in range(count):
            image = b"P5 8 8 255\n" + rng.bytes(64)
            shards[i] = {"image": image, "label": i % 10, "name": b"%d.pgm" % i}
        shards.done()
        shards.merge()
        np.save(folder / name / "labels.npy", np.arange(count) % 10)
    (folder / "classes.json").write_text(json.dumps([str(i) for i in range(10)]), encoding="utf-8")


def memory() -> int:
    """Bytes of this process and its children together, mapped files not counted (PSS)."""
    total = 0
    for process in [os.getpid(), *children(os.getpid())]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss_Anon"):
                total += int(line.split()[1]) * 1024
    return total


def children(process: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()]


@ends_on_signal
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        pack(Path(folder), options.samples)
        packed = time.perf_counter() - started
        cfg = compose_config(
            "data=stream", f"data.root={folder}", "data.image_size=8", "data.channels=1", "data.mean=[0.5]",
            "data.std=[0.25]", f"data.workers={options.workers}", "data.batch_size=500", "views=gray",
        )  # fmt: skip
        data = instantiate(cfg.data.datamodule)
        data.setup()
        n, size = len(data.splits.train), data.batch_size
        sampler = GlobalBatches(data.order, n, size, 0, 1, position=lambda: 0, per_epoch=n // size)
        data.trainer = type("Trainer", (), {"strategy": type("S", (), {"root_device": torch.device("cpu")})})
        rows, seen, started = [], torch.zeros(n, dtype=torch.bool), time.perf_counter()
        for number, batch in enumerate(data.loader(data.splits.train, sampler, seeding.VIEWS), 1):
            data.views.apply(batch.fetched.x, data.views.draw(size, torch.Generator().manual_seed(number)))
            seen[batch.indices.places] = True
            if number % max(1, n // size // POINTS) == 0:
                rows.append((number * size, time.perf_counter() - started, memory()))
                print(*rows[-1], flush=True)
        assert seen.all(), "each sample once"
    lines = [
        "# Memory while streaming", "",
        f"`python scripts/benchmark_stream.py --samples {options.samples} --workers {options.workers}`: one epoch over "
        f"{n:,} images of 8x8 pixels in shards, {versions('litdata', 'torch')}, "
        f"{usable_cores()} CPU cores; packed in {packed:.0f} s.",
        "Memory of the main process and its workers together (PSS, without mapped files).", "",
        "| images read | seconds | MiB |", "|---|---|---|",
        *(f"| {count:,} | {seconds:.0f} | {size / 2**20:,.0f} |" for count, seconds, size in rows),
    ]  # fmt: skip
    write_page("stream.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
