"""Memory and time of evaluators whose features are in a file: docs/benchmarks/evaluation.md

    python scripts/benchmark_evaluation.py [--sizes 10000 100000 1280000] [--evaluators knn retrieval ranking linear]
        [--features 2048] [--queries 200] [--classes 1000] [--probe-classes 100] [--dtype float32]
        [--setup-up-to 100000] [--in-memory-up-to 100000]

Made features: a mixture of Gaussians, a class each. The largest file takes 10.5 GB of the temporary folder (TMPDIR), or
half of it with --dtype float16, and is removed. Each row is measured in a process of its own; 10 minutes of one core.
Rows of other calls with the same numbers stay in the page: it can be measured in parts.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import ctypes
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from _benchmark import PAGES, forget_peak, peak_memory, versions, write_page
from torch import Tensor

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal
from repel.evaluation.item_rankings import rank_all
from repel.evaluation.knn import nearest_neighbors
from repel.evaluation.linear_classifier import mean_and_std
from repel.evaluation.logistic import principal_axes
from repel.evaluation.logistic_stored import StoredAxes, stored_axes
from repel.evaluation.retrieval import retrieval_metrics
from repel.evaluation.stored_features import Features, FileRows, StoredFeatures
from repel.evaluation.top_items import CosineScorer, KnownItems, StoredScorer

HEAD = """# Evaluation of features that do not fit into memory

`python scripts/benchmark_evaluation.py`: features of F = {features:,} dimensions in {dtype}, made: a mixture of
{classes:,} Gaussians, a class each. One thread of {cores} cores, {versions}. Each row is a process of its own. CPU
seconds: of one measurement, rough where other work runs beside, as it did here.

file: in a file that is read in blocks, as above `evaluation.memory`; memory: as below it. Memory: how far the
largest resident size (VmHWM) of the process rises from before on, beside the size of the features. What the system
keeps of the file in free memory (its page cache) is not in it, and goes when anything else asks for memory.

- `knn`: k = 200, all features are the bank. `retrieval`: the queries are some of the features, all others are searched.
  `ranking`: all features are items, the queries users.
- `linear`, set-up: means, deviations and principal axes, once a fit; left out above {setup_up_to:,} features, as it
  grows in proportion. Pass: value and gradient of the loss once, of {probe_classes:,} classes. A fit takes 10 to 100
  passes, and there are as many fits as values of l2, and one more.

Half as many queries show how the time grows: reading and normalizing the features take the same for up to {at_once:,}
queries; what is left grows in proportion to the queries, so that 50,000 take 50,000 / {queries:,} times as much of it.

| features | | evaluator | features, MB | memory, MB | CPU seconds |
|---|---|---|---|---|---|
"""
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
EVALUATORS, FORMS = ("knn", "retrieval", "ranking", "linear"), ("file", "memory")
Row = dict[str, Any]  # CPU seconds by what they are of, and MB


def make_file(path: Path, rows: int, options: argparse.Namespace) -> None:
    """Row i is of class i % classes. The noise repeats after 2,000 rows, in other columns."""
    draws = torch.Generator().manual_seed(0)
    centers = torch.randn(options.classes, options.features, generator=draws)
    noise = 4 * torch.randn(2000, options.features, generator=draws)
    with path.open("wb") as file:
        for block, places in enumerate(torch.arange(rows).split(2000)):
            made = centers[places % options.classes] + noise[: len(places)].roll(7 * block, 1)
            file.write(made.to(getattr(torch, options.dtype)).numpy().data)


def seconds(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def searches(x: Features, evaluator: str, queries: int, classes: int) -> float:
    """CPU seconds of so many queries."""
    draws = torch.Generator().manual_seed(1)
    places = torch.arange(queries) * (len(x) // queries)
    if evaluator == "retrieval":
        return seconds(lambda: retrieval_metrics(x, torch.arange(len(x)) % classes, [1, 5, 10], places))
    asked = x[places] + torch.randn(queries, x.shape[1], generator=draws)
    if evaluator == "knn":
        return seconds(lambda: nearest_neighbors(x, asked, 200))
    items = torch.randint(len(x) // 2, (2, queries), generator=draws)
    known, wanted = (torch.stack([torch.arange(queries), part], 1) for part in (items[0], items[1] + len(x) // 2))
    scorer = CosineScorer(asked, x) if isinstance(x, Tensor) else StoredScorer(asked, x)
    return seconds(lambda: rank_all(scorer, KnownItems.of(known, queries), KnownItems.of(wanted, queries), [20]))


def probe(x: Features, classes: int, setup: bool) -> dict[str, float]:
    """CPU seconds of the set-up, if it is measured, and of a pass."""
    began, width = time.process_time(), x.shape[1]
    if isinstance(x, Tensor):
        mean, std = mean_and_std(x)
        axes = principal_axes(((x - mean) / std).float())
    elif setup:
        axes = stored_axes(x, *mean_and_std(x))
    else:  # a pass takes the same time along any axes
        axes = StoredAxes(x, torch.zeros(width).double(), torch.ones(width).double(), torch.eye(width))
    done = {"set-up": time.process_time() - began} if setup else {}
    objective = axes.objective([torch.arange(len(x)) % classes], [classes], [1e-3])
    theta = torch.zeros(classes, width + 1)
    return done | {"pass": seconds(lambda: objective.value_and_gradient(theta))}


def measure(options: argparse.Namespace, path: Path, rows: int, evaluator: str, form: str, found: SimpleQueue) -> None:
    """One row, in a process of its own."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**18)  # what is freed goes back: holes of the heap do not count
    forget_peak()
    before = peak_memory()
    with path.open("rb") as file:
        stored = StoredFeatures([FileRows(file, options.dtype, rows, options.features)], torch.device("cpu"), limit=0)
        x = stored[:] if form == "memory" else stored
        if evaluator == "linear":
            times = probe(x, options.probe_classes, rows <= options.setup_up_to)
        else:
            counts = (options.queries // 2, options.queries)
            times = {f"{n:,} queries": searches(x, evaluator, n, options.classes) for n in counts}
    found.put((times, (peak_memory() - before) / 2**20))


def measure_size(rows: int, options: argparse.Namespace, found: dict[str, Row]) -> Iterator[None]:
    """Adds to what was found, row by row."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="repel_") as folder:
        path = Path(folder) / "features"
        make_file(path, rows, options)
        for form in FORMS[: 2 if rows <= options.in_memory_up_to else 1]:
            for evaluator in options.evaluators:
                queue = fork.SimpleQueue()
                process = fork.Process(target=measure, args=(options, path, rows, evaluator, form, queue))
                process.start()
                process.join()
                if process.exitcode:
                    raise RuntimeError(f"{rows:,} rows, {evaluator} in {form}: failed, as the traceback says")
                seconds, memory = queue.get()
                found[f"{rows} {form} {evaluator}"] = {"seconds": seconds, "memory": round(memory)}
                yield


def page(options: argparse.Namespace, found: dict[str, Row]) -> str:
    text = HEAD.format(**vars(options), cores=usable_cores(), versions=versions("torch"),
                       at_once=2**28 // (4 * options.features))  # fmt: skip
    keys = [key.split() for key in found]
    for rows, form, evaluator in sorted(keys, key=lambda key: (int(key[0]), FORMS.index(key[1]), key[2])):
        row = found[f"{rows} {form} {evaluator}"]
        size = int(rows) * options.features * getattr(torch, options.dtype).itemsize
        times = ", ".join(f"{what} {value:.1f}" for what, value in row["seconds"].items())
        text += f"| {int(rows):,} | {form} | `{evaluator}` | {size / 2**20:,.0f} | {row['memory']:,} | {times} |\n"
    return text


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_280_000])
    parser.add_argument("--evaluators", choices=EVALUATORS, nargs="+", default=EVALUATORS)
    for name, number in (("features", 2048), ("queries", 200), ("classes", 1000), ("probe-classes", 100),
                         ("setup-up-to", 100_000), ("in-memory-up-to", 100_000)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("features", "queries", "classes", "probe_classes", "dtype")}
    file = PAGES / "evaluation.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found: dict[str, Row] = known["rows"] if known.get("settings") == settings else {}
    for rows in options.sizes:
        for _ in measure_size(rows, options, found):
            print(list(found.items())[-1], flush=True)
            write_page("evaluation.json", json.dumps({"settings": settings, "rows": found}, indent=1) + "\n")
            write_page("evaluation.md", page(options, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
