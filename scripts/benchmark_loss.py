"""Time and peak memory of the loss, forward and backward, compared with lightly and pytorch-metric-learning.

    pip install -e '.[benchmark]'
    python scripts/benchmark_loss.py [--rounds 3] [--limit-gb 16] [--largest 65536]

Each measurement runs in its own process, so peak memory is its own and running out of memory ends that process alone.
It is forked from one that has imported the libraries, which takes longer than most of what is measured.
The libraries take turns, round by round. All compute NT-Xent of the same random embeddings in float32, D = 128; the
script checks that their values agree within 1e-5. Writes docs/benchmarks/loss.md and loss.png.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection

from _benchmark import PAGES, compose_config, forget_peak, peak_memory, spread, versions, write_page

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal

DIM, TEMPERATURE = 128, 0.2
STRATEGIES = ("hcl", "tilt", "debiased", "known_popularity")
WEIGHED = {f"repel-{strategy}": strategy for strategy in STRATEGIES}
NAMES = {
    "repel": "repel, `row_chunk=auto`",
    "repel-dense": "repel, `row_chunk=null`",
    **{name: f"repel, `auto`, `negatives={strategy}`" for name, strategy in WEIGHED.items()},
    "lightly": "lightly `NTXentLoss`",
    "pml-supcon": "PML `SelfSupervisedLoss(SupConLoss)`",
    "pml-ntxent": "PML `SelfSupervisedLoss(NTXentLoss)`",
}
ROWS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]  # 2N
USERS, PAIRS = 20_000, 400_000  # of known_popularity's data, with as many items


def build(name: str):
    """z (2, N, D) -> the loss, by one of the libraries."""
    if name.startswith("repel"):
        from hydra.utils import instantiate

        chosen = [f"loss.temperature={TEMPERATURE}", "loss=ntxent"]
        chosen += ["loss.row_chunk=null"] if name == "repel-dense" else []
        chosen += [f"negatives={WEIGHED[name]}"] if name in WEIGHED else []
        loss = instantiate(compose_config(*chosen).loss)
        return with_pairs(loss) if name == "repel-known_popularity" else loss
    if name == "lightly":
        from lightly.loss import NTXentLoss

        loss = NTXentLoss(temperature=TEMPERATURE)
    else:
        from pytorch_metric_learning import losses

        inner = {"pml-supcon": losses.SupConLoss, "pml-ntxent": losses.NTXentLoss}[name]
        loss = losses.SelfSupervisedLoss(inner(temperature=TEMPERATURE))
    return lambda z: loss(z[0], z[1])


def with_pairs(loss):
    """z -> the loss of pairs of users and items that are drawn from made data, which the strategy has been told of."""
    import torch

    from repel.data.samples import give_info
    from repel.interactions.pairs import InteractionInfo

    draws = torch.Generator().manual_seed(0)
    pairs = torch.randint(USERS, (PAIRS, 2), generator=draws, dtype=torch.int32).unique(dim=0)
    give_info(loss, InteractionInfo(len(pairs), users=USERS, items=USERS, pairs=pairs))
    places = torch.randint(len(pairs), (ROWS[-1] // 2,), generator=draws)
    ids = (pairs[places].long() + torch.tensor([0, USERS])).T
    return lambda z: loss(z, ids=ids[:, : z.shape[1]])


def measure(name: str, rows: int, limit: int) -> dict:
    """Forward and backward again and again, for two seconds; in a process of its own."""
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    loss = build(name)
    warm = torch.randn(2, 16, DIM, requires_grad=True)
    loss(warm).backward()  # lazy imports and thread pools are not the loss's
    z = torch.randn(2, rows // 2, DIM, generator=torch.Generator().manual_seed(0)).requires_grad_()
    forget_peak()  # what the data of known_popularity took
    before, times = peak_memory(), []
    try:
        while len(times) < 2 or (sum(times) < 2 and len(times) < 30):
            z.grad = None
            started = time.perf_counter()
            value = loss(z)
            value.backward()
            times.append(time.perf_counter() - started)
            if sum(times) > 60:
                break
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return {"failed": "out of memory"}
    best = times[1:] or times  # the first touches memory for the first time
    return {"seconds": statistics.median(best), "bytes": peak_memory() - before, "value": value.item()}


def measure_into(results: Connection, name: str, rows: int, limit: int) -> None:
    results.send(measure(name, rows, limit))


def run(name: str, rows: int, limit_gb: float) -> dict:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["torch", "hydra", "repel.losses", "lightly.loss", "pytorch_metric_learning.losses"]
    )
    here, there = processes.Pipe(duplex=False)
    process = processes.Process(target=measure_into, args=(there, name, rows, int(limit_gb * 2**30)))
    process.start()
    there.close()  # else a process that was killed would not be missed
    try:
        return here.recv()
    except EOFError:
        process.join()
        if process.exitcode and process.exitcode < 0:
            return {"failed": f"killed by signal {-process.exitcode}"}
        raise SystemExit(f"error: {name} at {rows} rows failed, see above") from None


def ratios(ours: list[dict], theirs: list[dict]) -> str:
    """Time and memory as shares of the other library's, within each round."""
    if any("failed" in r for r in [*ours, *theirs]):
        return "| - | - |"
    times = [a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True)]
    memory = [a["bytes"] / b["bytes"] for a, b in zip(ours, theirs, strict=True)]
    return f"| {spread(times, 2)} | {spread(memory, 3)} |"


def plot(results: dict[tuple[str, int], list[dict]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for name in NAMES:
        points = [(rows, found) for (n, rows), found in results.items() if n == name and "failed" not in found[0]]
        if not points:
            continue
        for axis, key, unit in ((axes[0], "seconds", 1), (axes[1], "bytes", 2**30)):
            x = [rows for rows, _ in points]
            y = [[max(r[key] / unit, 1e-4) for r in found] for _, found in points]
            middle = [statistics.median(v) for v in y]
            axis.plot(x, middle, marker="o", markersize=4, label=NAMES[name].replace("`", ""))
            axis.fill_between(x, [min(v) for v in y], [max(v) for v in y], alpha=0.2)
    measured = sorted({rows for _, rows in results})
    for axis, label in zip(axes, ("seconds", "peak extra memory, GiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="embeddings, 2N", ylabel=label)
        axis.set_xticks(measured, [f"{rows:,}" for rows in measured])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle("NT-Xent, forward and backward, D = 128, float32")
    figure.savefig(PAGES / "loss.png", dpi=110)


@ends_on_signal
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-gb", type=float, default=16)
    parser.add_argument("--largest", type=int, default=ROWS[-1])
    parser.add_argument("--measure")
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.rows, int(options.limit_gb * 2**30))))
        return
    results: dict[tuple[str, int], list[dict]] = {}
    for rows in [r for r in ROWS if r <= options.largest]:
        for number in range(options.rounds):
            for name in NAMES:
                if name in WEIGHED and rows > 16384:
                    continue  # takes minutes, and the line is straight by then
                known = results.setdefault((name, rows), [])
                smaller = [found for (n, r), found in results.items() if n == name and r < rows]
                if any("failed" in found[0] for found in smaller) or (known and "failed" in known[0]):
                    known.append({"failed": "out of memory"})
                    continue
                known.append(run(name, rows, options.limit_gb))
                print(rows, number, name, known[-1], flush=True)
        values = [r["value"] for (n, m), found in results.items() for r in found
                  if m == rows and n not in WEIGHED and "value" in r]  # fmt: skip
        assert max(values) - min(values) < 1e-5 * abs(values[0]), values
        write(results, options)
        plot(results)


def write(results: dict[tuple[str, int], list[dict]], options: argparse.Namespace) -> None:
    lines = [
        "# Losses: time and memory",
        "",
        f"`python scripts/benchmark_loss.py --rounds {options.rounds} --limit-gb {options.limit_gb:g} "
        f"--largest {options.largest}`: forward and backward of NT-Xent on 2N random embeddings, D = {DIM}, float32,",
        f"{usable_cores()} CPU cores ({platform.machine()}), "
        f"{versions('torch', 'lightly', 'pytorch-metric-learning')}. Each runs in its own process with "
        f"{options.limit_gb:g} GiB of address space;",
        "median (and range) over rounds in which all take turns. Memory is the growth of the process's peak resident "
        "set. PML is pytorch-metric-learning.",
        "",
        "![time and memory](loss.png)",
        "",
        "| 2N | library | seconds | peak extra memory, MiB | time, share of lightly's | memory, share of lightly's |",
        "|---|---|---|---|---|---|",
    ]
    for (name, rows), found in results.items():
        if "failed" in found[0]:
            lines.append(f"| {rows:,} | {NAMES[name]} | {found[0]['failed']} | - | - | - |")
            continue
        seconds = spread([r["seconds"] for r in found], 3)
        memory = spread([r["bytes"] / 2**20 for r in found], 0)
        share = ratios(found, results["lightly", rows])
        lines.append(f"| {rows:,} | {NAMES[name]} | {seconds} | {memory} {share}")
    write_page("loss.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
