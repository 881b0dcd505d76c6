"""Time and accuracy of the default run beside those of an older checkout: docs/benchmarks/training.md

    python scripts/benchmark_training.py OLD [--seeds 3] [--threads 2] [--new key=value ...] [key=value ...]

OLD is a checkout with a .venv of its own. For each seed both checkouts run `python train.py seed=SEED`, one after the
other, the older one first and second in turns; leave the machine alone meanwhile. Options are of both, those after
--new of this checkout only.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from _benchmark import ROOT, spread, versions, write_page

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal

HEAD = """# Time to accuracy

`{command}`, {threads} threads of {cores} CPU cores, Python {python}, {versions}.

`python train.py` of this checkout beside that of commit {commit}, one after the other on the same machine. Training is
the time from before the first step to the end of the last, validation and checkpoints between them included, without
start-up and the evaluation at the end; CPU is that of all threads. The accuracy is `test/knn_top1` of the last epoch
(k = 20, t = 0.1) on 2,000 test images, which nothing was chosen on.

| seed | {commit}: s | CPU s | kNN top-1 | now: s | CPU s | kNN top-1 | ratio of s | of CPU s |
|---|---|---|---|---|---|---|---|---|
"""


class Run(NamedTuple):
    """Seconds of training by the clock and of the CPU, and the accuracy of the last epoch."""

    wall: float
    cpu: float
    top1: float


def train(checkout: Path, python: Path, threads: int, options: list[str]) -> Run:
    """One run of a checkout, in a folder that is removed.

    Raises:
        SystemExit: it failed; its own words are printed.
    """
    with tempfile.TemporaryDirectory(prefix="repel_") as folder:
        clock = Path(folder) / "clock.json"
        timed = [str(python), str(ROOT / "scripts/_training_clock.py"), str(clock)]
        command = [*timed, str(checkout / "train.py"), *options]
        environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "PYTHONUTF8": "1"}
        environment["OMP_NUM_THREADS"] = str(threads)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}error: {shlex.join(command)} ended with {done.returncode}")
        [file] = Path(folder).glob("runs/train/*/metrics.json")
        metrics = json.loads(file.read_text(encoding="utf-8"))
        times = json.loads(clock.read_text(encoding="utf-8"))
    # where test/x is of the best checkpoint by validation, the last epoch has a name of its own
    return Run(times["wall"], times["cpu"], metrics.get("test/last_knn_top1", metrics["test/knn_top1"]))


def row(seed: int, old: Run, new: Run) -> str:
    cells = [f"{value:.{digits}f}" for run in (old, new) for value, digits in zip(run, (1, 1, 4), strict=True)]
    return f"| {' | '.join([str(seed), *cells, f'{new.wall / old.wall:.2f}', f'{new.cpu / old.cpu:.2f}'])} |\n"


def summary(old: list[Run], new: list[Run]) -> str:
    """Medians and ranges of the ratios, means and lowest of the accuracies."""
    pairs = list(zip(old, new, strict=True))
    wall, cpu = ([getattr(b, key) / getattr(a, key) for a, b in pairs] for key in ("wall", "cpu"))
    before, now = ([run.top1 for run in runs] for runs in (old, new))
    return (
        f"\nMedian and range: {spread(wall, 2)} of the training time, {spread(cpu, 2)} of the CPU time.\n"
        f"kNN top-1, mean and lowest: {mean(before):.4f} and {min(before):.4f} then, "
        f"{mean(now):.4f} and {min(now):.4f} now.\n"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("options", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--new", nargs="+", default=[], metavar="key=value")
    parsed = parser.parse_intermixed_args()
    parsed.old = parsed.old.resolve()
    if not ((parsed.old / ".venv/bin/python").exists() and (parsed.old / "train.py").exists()):
        parser.error(f"{parsed.old} is no checkout with a .venv: git worktree add OLD COMMIT, and make install there")
    return parsed


def head(parsed: argparse.Namespace) -> str:
    command = ["git", "-C", str(parsed.old), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()
    typed = ["python scripts/benchmark_training.py OLD", f"--seeds {parsed.seeds}", shlex.join(parsed.options)]
    typed += [f"--new {shlex.join(parsed.new)}"] if parsed.new else []
    return HEAD.format(
        command=" ".join(filter(None, typed)), threads=parsed.threads, cores=usable_cores(), commit=commit,
        python=platform.python_version(), versions=versions("torch", "lightning"),
    )  # fmt: skip


@ends_on_signal
def main() -> int:
    parsed = parse()
    text = head(parsed)
    before: list[Run] = []
    now: list[Run] = []
    for seed in range(1, parsed.seeds + 1):
        options = [f"seed={seed}", "evaluators=[knn]", "evaluation.map=null", *parsed.options]
        then = before, parsed.old, parsed.old / ".venv/bin/python", options
        sides = [then, (now, ROOT, Path(sys.executable), [*options, *parsed.new])]
        for runs, checkout, python, own in sides if seed % 2 else sides[::-1]:
            runs.append(train(checkout, python, parsed.threads, own))
        text += row(seed, before[-1], now[-1])
        print(text.splitlines()[-1], flush=True)
    end = summary(before, now)
    print(end)
    write_page("training.md", text + end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
