"""Training on pairs of users and items: speed, memory and accuracy, compared with RecBole.

    python3.11 -m venv ENV
    ENV/bin/pip install recbole==1.2.1 torch==2.15.0 numpy==1.26.4 scipy==1.12.0 pandas==2.3.3 'setuptools<81'
    python scripts/benchmark_recommendation.py --recbole ENV/bin/python [--ml100k FILE] [--quick] [--only lightgcn]

RecBole has an environment of its own, as it works with numpy 1, pandas 2 and scipy 1.12 at most. Both train on the same
splits of the bundled data, with vectors of 64 dimensions, batches of the same size, and Adam; each training has a
process of its own on as many threads, in turns. The validation split chooses the epoch, by NDCG@20, and RecBole's
learning rate, with the first seed. RecBole stops after 10 epochs without a better one, which is its default; this
project has the rates and epochs of its presets. --ml100k FILE: also on MovieLens-100k, all ratings as pairs, 8:2
at random. Its license forbids to pass it on, RecBole's package has it: recbole/dataset_example/ml-100k/ml-100k.inter.
Writes docs/benchmarks/recommendation.md and recommendation.json.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _benchmark import PAGES, spread, versions, write_page
from _recommendation_rivals import Case, brute_force, measure, read_splits, score_baselines, threads, write_pairs
from _training import BARE

from repel.base.signals import ends_on_signal

# encoder -> RecBole's model and its options
RECBOLE: dict[str, dict[str, Any]] = {
    "table": {"model": "BPR"},
    "lightgcn": {"model": "LightGCN", "layers": 2},
}
BEST = ["experiment=recommendation", "encoder.width=64"]
TABLE = [*BEST, "encoder=table", "~encoder.layers", "~encoder.leave_pair_out"]
# encoder -> objective -> overrides of train.py's config
OURS: dict[str, dict[str, list[str]]] = {
    "table": {
        "BPR": ["experiment=bpr"],
        "default": TABLE,
        "default, as `train.py` runs it": TABLE,
    },
    "lightgcn": {"BPR": ["experiment=lightgcn", "encoder.layers=2"], "default": BEST},
}
WHOLE = "as `train.py` runs it"  # with callbacks, checkpoints and logs
RATES, PATIENCE = (1e-3, 3e-3, 1e-2), 10  # RecBole's learning rates; epochs without a better one after which it stops
BUNDLED = ["data=debian_mini"]
AGREEMENT = 1e-5  # largest difference of the forms that score the same vectors
COLUMNS = [
    "encoder", "library, objective", "epoch, s", "speed, of RecBole's", "by CPU time", "until the chosen epoch, s",
    "until RecBole's best validation NDCG, s", "peak memory, MiB", "of it during training, MiB", "R@20", "N@20",
]  # fmt: skip


def write_ml100k(file: Path, folder: Path) -> list[str]:
    """train.txt and test.txt, 8:2 at random; returns the overrides that name them."""
    rows = [line.split("\t")[:2] for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    users, items = (np.unique([row[side] for row in rows], return_inverse=True)[1] for side in (0, 1))
    tested = np.random.default_rng(1).random(len(rows)) < 0.2
    for name, chosen in (("train", ~tested), ("test", tested)):
        lines = [" ".join(map(str, [user, *items[chosen & (users == user)]])) for user in range(users.max() + 1)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["data=interactions_lightgcn", f"data.root={folder}"]


class Comparison:
    """The trainings on one data set.

    Args:
        data: overrides that name it.
        folder: of the files that both libraries read.
    """

    def __init__(self, data: list[str], folder: Path, options: argparse.Namespace):
        self.data, self.folder, self.options = data, folder, options

    def theirs(self, encoder: str, seed: int, rate: float) -> Case:
        model = RECBOLE[encoder] | {"lr": rate, "epochs": self.options.epochs, "patience": PATIENCE}
        shared = str(self.folder), seed, self.options.batch
        return Case(f"RecBole's {model['model']}", *shared, recbole=self.options.recbole, options=model)

    def ours(self, encoder: str, objective: str, seed: int) -> Case:
        few = ["trainer.max_epochs=1"] if self.options.quick else []
        overrides = [*OURS[encoder][objective], *self.data, *([] if WHOLE in objective else BARE), *few]
        return Case(f"repel, {objective}", str(self.folder), seed, self.options.batch, overrides)

    def best_rate(self, encoder: str) -> float:
        """RecBole's learning rate: of the highest NDCG@20 on the validation split, with the first seed."""
        found = {rate: max(self.theirs(encoder, 1, rate).run()["curve"]) for rate in self.options.rates}
        print(f"{encoder}: RecBole's NDCG@20 on validation by learning rate: {found}", flush=True)
        return max(found, key=lambda rate: found[rate])

    def measure(self, encoder: str) -> dict[str, list[dict]]:
        """Library and objective -> what was found, a seed each; who begins alternates."""
        rate, results = self.best_rate(encoder), {}
        for seed in range(1, self.options.seeds + 1):
            cases = [self.theirs(encoder, seed, rate), *(self.ours(encoder, name, seed) for name in OURS[encoder])]
            results |= {case.name: results.get(case.name, []) for case in cases}
            for case in cases[:: 1 if seed % 2 else -1]:
                found = case.run() | {"rate": rate if case.recbole else None}
                if case.recbole:
                    check_agreement(found, brute_force(self.folder))
                results[case.name].append(found)
                speed = f"{len(found['epochs'])} epochs of {epoch_seconds(found):.2f} s, {found['seconds']:.0f} s"
                accuracy = f"R@20 {found['recall']:.4f}, N@20 {found['ndcg']:.4f}"
                print(f"{encoder} seed {seed} {case.name:38} {speed}, {accuracy}", flush=True)
        rows = [each for found in results.values() for each in found]
        assert len({each["threads"] for each in rows}) == 1, "other threads"
        steps = [each["steps"] for each in rows]
        assert max(steps) - min(steps) <= 1, "other batches"  # RecBole's last one is smaller, here it is left out
        return results


def check_agreement(found: dict[str, float], brute: dict[str, float]) -> None:
    """RecBole's own metrics, this project's of RecBole's vectors, and a form that sorts user by user are the same."""
    for name, value in brute.items():
        for other in (found[name], found[f"own_{name}"]):
            assert abs(other - value) < AGREEMENT, f"{name}: {value} by brute force, {other} otherwise"


def until(found: dict[str, Any], reached: float) -> float | None:
    """Seconds of training until NDCG@20 on validation was as high; None: it never was."""
    epochs = next((epoch for epoch, value in enumerate(found["curve"], 1) if value >= reached), None)
    return None if epochs is None else sum(found["epochs"][:epochs])


def epoch_seconds(found: dict[str, Any], key: str = "epochs") -> float:
    """The median epoch, without the first, which warms up."""
    return statistics.median(found[key][1:] or found[key])


def row(found: list[dict], base: list[dict]) -> list[str]:
    cells = [spread([epoch_seconds(one) for one in found], 2)]
    for key in ("epochs", "cpu_epochs"):
        ratios = [epoch_seconds(b, key) / epoch_seconds(one, key) for one, b in zip(found, base, strict=True)]
        cells.append(spread(ratios, 2))
    for goals in (found, base):
        reached = [until(one, max(goal["curve"])) for one, goal in zip(found, goals, strict=True)]
        times = [value for value in reached if value is not None]
        cells.append(spread(times, 1) if len(times) == len(reached) else f"never in {len(reached) - len(times)}")
    cells += [spread([one[key] / 2**20 for one in found]) for key in ("peak", "growth")]
    return cells + [mean([one[name] for one in found]) for name in ("recall", "ndcg")]


def mean(values: Sequence[float]) -> str:
    """Mean and standard deviation, such as `0.6770 ± 0.0012`."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def section(found: dict[str, Any], rates: Sequence[float]) -> list[str]:
    sizes, results = found["sizes"], found["results"]
    chosen = ", ".join(f"{encoder} {next(iter(rows.values()))[0]['rate']:g}" for encoder, rows in results.items())
    baselines = (f"{name} {of['recall']:.4f} / {of['ndcg']:.4f}" for name, of in found["baselines"].items())
    lines = [
        "", f"## `{found['data']}`", "",
        f"{sizes['users']:,} users, {sizes['items']:,} items; {sizes['train']:,} training, {sizes['val']:,} validation "
        f"and {sizes['test']:,} test pairs. RecBole's learning rate, of {', '.join(f'{rate:g}' for rate in rates)}: "
        f"{chosen}.",
        f"Without an encoder, options chosen by the validation split, R@20 / N@20: {', '.join(baselines)}.", "",
        f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|",
    ]  # fmt: skip
    for encoder, rows in results.items():
        base = next(iter(rows.values()))
        lines += [f"| {encoder} | {name} | {' | '.join(row(each, base))} |" for name, each in rows.items()]
    return lines


def page(found: list[dict[str, Any]], options: argparse.Namespace, command: str) -> str:
    listed = subprocess.run([options.recbole, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True)
    installed = {each["name"].lower(): each["version"] for each in json.loads(listed.stdout)}
    theirs = ", ".join(f"{name} {installed[name]}" for name in ("recbole", "torch", "numpy", "scipy", "pandas"))
    lines = [
        "# Training on users and items", "",
        f"`{command}`: batches of {options.batch} pairs, {threads()} thread(s) of a CPU ({platform.machine()}), Python "
        f"{platform.python_version()}, {versions('torch', 'lightning', 'numpy')}; RecBole's: {theirs}.", "",
        f"Medians (and range) over {options.seeds} seed(s), of ratios within a seed; R@20 and N@20 on the test split: "
        "mean ± standard deviation. Each training has a process of its own; libraries take turns. Times are those of "
        "training alone, without validation, which chooses the epoch. Memory is the process's largest resident set.",
        "All items are ranked, training and validation pairs left out. RecBole's own metrics, this project's of "
        f"RecBole's vectors, and a form that sorts user by user agree within {AGREEMENT:g} in every training.",
        "RecBole's models have BPR's objective; table is matrix factorization, lightgcn has 2 layers in both.",
    ]  # fmt: skip
    for each in found:
        lines += section(each, options.rates)
    return "\n".join(lines) + "\n"


def measure_data(name: str, data: list[str], options: argparse.Namespace) -> dict[str, Any]:
    encoders = [encoder for encoder in RECBOLE if options.only in (None, encoder)]
    with tempfile.TemporaryDirectory() as folder:
        splits, comparison = read_splits(data), Comparison(data, Path(folder), options)
        sizes = write_pairs(splits, comparison.folder)
        baselines = score_baselines(splits, comparison.folder)
        results = {encoder: comparison.measure(encoder) for encoder in encoders}
    return {"data": name, "sizes": sizes, "baselines": baselines, "results": results}


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recbole", help="the Python of RecBole's environment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=100, help="of RecBole, at most; this project has its presets'")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="RecBole's learning rates")
    parser.add_argument("--data", nargs="+", default=BUNDLED, help="overrides that name other data; no page")
    parser.add_argument("--ml100k", type=Path, help="RecBole's ml-100k.inter: also on it")
    parser.add_argument("--only", choices=sorted(RECBOLE), help="one encoder, no page")
    parser.add_argument("--quick", action="store_true", help="to see that it works: one seed, one epoch, no page")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Case(**json.loads(options.measure)))))
        return 0
    if not options.recbole or subprocess.run([options.recbole, "-c", "import recbole"], capture_output=True).returncode:
        print("skipped: --recbole names no Python that has RecBole; the script's top makes one", file=sys.stderr)
        return 2
    if options.quick:
        options.seeds, options.epochs, options.rates = 1, 1, options.rates[-1:]
    found = [measure_data(" ".join(options.data), options.data, options)]
    if options.ml100k:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure_data("MovieLens-100k", write_ml100k(options.ml100k, Path(folder)), options))
    flags = [
        "--recbole ENV/bin/python",
        *(f"--{name} {getattr(options, name)}" for name in ("seeds", "batch", "epochs")),
    ]
    flags += ["--ml100k ml-100k.inter"] if options.ml100k else []
    text = page(found, options, " ".join(["python scripts/benchmark_recommendation.py", *flags]))
    if options.quick or options.only or options.data != BUNDLED:
        print(text)
        return 0
    write_page("recommendation.md", text)
    (PAGES / "recommendation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
