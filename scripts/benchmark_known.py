"""What `negatives=known` costs in a step: CPU seconds of the loss, forward and backward, with it and without.

    python scripts/benchmark_known.py FOLDER [--batch 4096] [--rounds 5] [--threads 1]

FOLDER has a `train.txt` in the format of LightGCN's repository, a line a user: `user item item ...`, such as Gowalla's.
InfoNCE of random pairs' random embeddings, D = 64, users against items and items against users. Settings take turns;
the least of all rounds counts. Writes docs/benchmarks/known.md.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import platform
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from _benchmark import versions, write_page

from repel.base.signals import ends_on_signal

DIM = 64


def read(folder: Path) -> SimpleNamespace:
    """What strategies are told of the data."""
    import torch

    rows = [line.split() for line in (folder / "train.txt").read_text(encoding="utf-8").splitlines()]
    pairs = torch.tensor([(int(row[0]), int(item)) for row in rows if row for item in row[1:]])
    users, items = (int(side.max()) + 1 for side in pairs.T)
    return SimpleNamespace(users=users, items=items, pairs=pairs.int())


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def settings() -> dict:
    """Name -> the strategy."""
    from repel.negatives import Chain, Known, Popularity, Random, Uniform

    return {
        "uniform": Uniform(), "known": Known(), "popularity": Popularity(), "random k=1": Random(1),
        "random k=1 flat": Random(1, flat=True), "chain: known, popularity": Chain([Known(), Popularity()]),
    }  # fmt: skip


@ends_on_signal
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="more seem slower where the machine has other work")
    options = parser.parse_args()
    import torch

    from repel.data.samples import give_info
    from repel.losses import InfoNCE

    torch.set_num_threads(options.threads)
    data, draws = read(options.folder), torch.Generator().manual_seed(0)
    chosen = data.pairs[torch.randperm(len(data.pairs), generator=draws)[: options.batch]].long()
    ids = torch.stack([chosen[:, 0], chosen[:, 1] + data.users])
    z = torch.randn(2, options.batch, DIM, generator=draws).requires_grad_()
    seconds: dict[str, list[tuple[float, float]]] = {}
    losses = {name: InfoNCE(temperature=0.1, negatives=strategy) for name, strategy in settings().items()}
    for loss in losses.values():
        give_info(loss.negatives, data)
        loss(z, ids=ids).backward()
        loss.statistics()
    for _ in range(options.rounds):
        for name, loss in losses.items():
            before, started = cpu_seconds(), time.perf_counter()
            loss(z, ids=ids).backward()
            loss.statistics()
            seconds.setdefault(name, []).append((cpu_seconds() - before, time.perf_counter() - started))
    best = {name: [min(times) for times in zip(*found, strict=True)] for name, found in seconds.items()}
    write(options, data, best)


def write(options: argparse.Namespace, data: SimpleNamespace, best: dict[str, list[float]]) -> None:
    plain = best["uniform"][0]
    lines = [
        "# Strategies for users and items: time",
        "",
        f"`python scripts/benchmark_known.py FOLDER --batch {options.batch} --rounds {options.rounds} "
        f"--threads {options.threads}`: forward and backward of InfoNCE, N = {options.batch:,}, D = {DIM}, float32,",
        f"both directions, on a log of {len(data.pairs):,} pairs of {data.users:,} users and {data.items:,} items. "
        f"Threads: {options.threads} ({platform.machine()}), {versions('torch')}.",
        f"The least of {options.rounds} rounds, in which all take turns. The share of a step is that of what `uniform` "
        "does not need.",
        "",
        "| negatives | CPU seconds | seconds | share |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {cpu:.3f} | {wall:.3f} | {1 - plain / cpu:.2f} |" for name, (cpu, wall) in best.items()]
    print("\n".join(lines[-len(best) - 2 :]), flush=True)
    write_page("known.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
