"""Training on pairs of users and items: speed, memory and accuracy, compared with RecBole.

    python -m venv ENV && ENV/bin/pip install 'recbole==1.2.1' 'torch==2.15.0' 'numpy==1.26.4' 'pandas==2.3.3' \
        'scipy==1.12.0' 'setuptools<81'
    python scripts/benchmark_recommendation.py --recbole ENV/bin/python [--quick] [--ml100k FILE] [--seeds 3]

RecBole needs versions of numpy and scipy that this project does not take (numpy 1, and a scipy whose dok_matrix has
_update), hence an environment of its own. Both get the same splits of the bundled data, vectors of 64 dimensions,
batches of the same size, and Adam; each training has a process of its own on the same number of threads, in turns.
The validation split chooses the epoch, by NDCG@20, and RecBole's learning rate among RATES, with the first seed; RecBole
stops after 10 epochs without a better one. Times are those of training alone, without validation.
--ml100k FILE: also on MovieLens-100k, all ratings as pairs, 8:2 at random. RecBole's package has the file:
ENV/lib/python3.*/site-packages/recbole/dataset_example/ml-100k/ml-100k.inter; its license forbids to pass it on.
Writes docs/benchmarks/recommendation.md and recommendation.json.
"""

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
from _recommendation_rivals import BARE, Case, brute_force, measure, threads, write_pairs

from repel.base.signals import ends_on_signal

# encoder -> what RecBole calls it, with options; it is given the learning rate
RECBOLE: dict[str, dict[str, Any]] = {
    "table": {"model": "BPR"},
    "lightgcn": {"model": "LightGCN", "layers": 2},
}
RATES = (1e-3, 3e-3, 1e-2)
# encoder -> objective -> overrides of train.py's config
OURS: dict[str, dict[str, list[str]]] = {
    "table": {
        "BPR": ["experiment=bpr"],
        "default": ["experiment=recommendation"],
        "default, as `train.py` runs it": ["experiment=recommendation"],
    },
    "lightgcn": {
        "BPR": ["experiment=bpr", "encoder=lightgcn", "encoder.layers=2"],
        "default": ["experiment=recommendation", "encoder=lightgcn", "encoder.layers=2"],
    },
}
WHOLE = "as `train.py` runs it"
BUNDLED: list[str] = []  # the default data of the experiments
AGREEMENT = 1e-5  # largest difference of the forms that score the same vectors


def write_ml100k(file: Path, folder: Path) -> list[str]:
    """train.txt and test.txt, 8:2 at random; returns the overrides that name them."""
    rows = [line.split("\t")[:2] for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    users, items = (np.unique([row[side] for row in rows], return_inverse=True)[1] for side in (0, 1))
    tested = np.random.default_rng(1).random(len(rows)) < 0.2
    for name, chosen in (("train", ~tested), ("test", tested)):
        lines = [" ".join(map(str, [user, *items[chosen & (users == user)]])) for user in range(users.max() + 1)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["data=interactions_lightgcn", f"data.root={folder}"]


def best_rate(encoder: str, folder: Path, options: argparse.Namespace) -> float:
    """RecBole's learning rate: of the highest NDCG@20 on the validation split, with the first seed."""
    found = {rate: max(recbole_case(encoder, folder, 1, rate, options).run()["curve"]) for rate in options.rates}
    print(f"{encoder}: RecBole's NDCG@20 on validation by learning rate: {found}", flush=True)
    return max(found, key=lambda rate: found[rate])


def recbole_case(encoder: str, folder: Path, seed: int, rate: float, options: argparse.Namespace) -> Case:
    limits = {"lr": rate, "epochs": options.epochs, "patience": 10}
    name = f"RecBole's {RECBOLE[encoder]['model']}"
    return Case(name, str(folder), seed, options.batch, options.recbole, RECBOLE[encoder] | limits)


def our_case(encoder: str, objective: str, folder: Path, seed: int, data: list[str], options: argparse.Namespace) -> Case:
    bare = [] if WHOLE in objective else BARE
    few = ["trainer.max_epochs=1"] if options.quick else []
    overrides = [*OURS[encoder][objective], *data, *bare, *few]
    return Case(f"repel, {objective}", str(folder), seed, options.batch, overrides=overrides)


def measure_encoder(encoder: str, folder: Path, data: list[str], options: argparse.Namespace) -> dict[str, list[dict]]:
    """Library and objective -> what was found, a seed each; who begins alternates."""
    rate = best_rate(encoder, folder, options)
    results: dict[str, list[dict]] = {}
    for seed in range(1, options.seeds + 1):
        cases = [recbole_case(encoder, folder, seed, rate, options)]
        cases += [our_case(encoder, objective, folder, seed, data, options) for objective in OURS[encoder]]
        results |= {case.name: results.get(case.name, []) for case in cases}
        for case in cases[:: 1 if seed % 2 else -1]:
            found = case.run() | {"rate": rate if case.recbole else None}
            if case.recbole:
                check_agreement(found, brute_force(folder))
            results[case.name].append(found)
            epoch = f"{statistics.median(found['epochs']):.2f} s an epoch, {len(found['epochs'])} epochs"
            shown = f"R@20 {found['recall']:.4f} N@20 {found['ndcg']:.4f}"
            print(f"{encoder} seed {seed} {case.name:38} {epoch}, {shown}, {found['seconds']:.0f} s", flush=True)
    rows = [each for found in results.values() for each in found]
    assert len({each["threads"] for each in rows}) == 1, "other threads"
    steps = [each["steps"] for each in rows]
    assert max(steps) - min(steps) <= 1, "other batches"  # RecBole's last one may be smaller, here it is left out
    return results


def check_agreement(found: dict[str, float], brute: dict[str, float]) -> None:
    """RecBole's own metrics, this project's of RecBole's vectors, and a form that sorts user by user, are the same."""
    for name, value in brute.items():
        for other in (found[name], found[f"own_{name}"]):
            assert abs(other - value) < AGREEMENT, f"{name}: {value} by brute force, {other} otherwise"


def until(found: dict[str, Any], reached: float | None = None) -> float | None:
    """Seconds of training until NDCG@20 on validation was `reached`, or highest; None: it never was."""
    reached = max(found["curve"]) if reached is None else reached
    epochs = next((epoch for epoch, value in enumerate(found["curve"], 1) if value >= reached), None)
    return None if epochs is None else sum(found["epochs"][:epochs])


def epoch_seconds(found: dict[str, Any], key: str = "epochs") -> float:
    """The median epoch; the first warms up."""
    return statistics.median(found[key][1:] or found[key])


def row(found: list[dict], base: list[dict]) -> list[str]:
    cells = [spread([epoch_seconds(one) for one in found], 2)]
    for key in ("epochs", "cpu_epochs"):
        ratios = [epoch_seconds(b, key) / epoch_seconds(one, key) for one, b in zip(found, base, strict=True)]
        cells.append(spread(ratios, 2))
    cells.append(spread([value for one in found if (value := until(one)) is not None], 1))
    reached = [until(one, max(b["curve"])) for one, b in zip(found, base, strict=True)]
    cells.append("never" if None in reached else spread([value for value in reached if value is not None], 1))
    cells += [spread([one[key] / 2**20 for one in found]) for key in ("peak", "growth")]
    return cells + [mean([one[name] for one in found]) for name in ("recall", "ndcg")]


def mean(values: Sequence[float]) -> str:
    """Mean and standard deviation, such as `0.6770 ± 0.0012`."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def table(results: dict[str, dict[str, list[dict]]]) -> list[str]:
    lines = [
        "| encoder | library, objective | epoch, s | speed, of RecBole's | by CPU time | training until the chosen "
        "epoch, s | until RecBole's best NDCG on validation, s | peak memory, MiB | of it during training, MiB | R@20 "
        "| N@20 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for encoder, by_name in results.items():
        base = next(iter(by_name.values()))
        lines += [f"| {encoder} | {name} | {' | '.join(row(found, base))} |" for name, found in by_name.items()]
    return lines


def page(found: list[dict[str, Any]], options: argparse.Namespace, command: str) -> str:
    recbole = subprocess.run([options.recbole, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True)
    installed = {each["name"].lower(): each["version"] for each in json.loads(recbole.stdout)}
    theirs = ", ".join(f"{name} {installed[name]}" for name in ("recbole", "torch", "numpy", "scipy", "pandas"))
    head = [
        "# Training on users and items", "",
        f"`{command}`: batches of {options.batch} pairs, {threads()} thread(s) of a CPU ({platform.machine()}), Python "
        f"{platform.python_version()}, {versions('torch', 'lightning', 'numpy')}; beside it {theirs}.", "",
        f"Medians (and range) over {options.seeds} seed(s), of ratios within a seed; R@20 and N@20 on the test split: "
        "mean ± standard deviation. Each training has a process of its own; libraries take turns. Times are those of "
        "training alone. The validation split chooses the epoch. Memory is the process's largest resident set.",
        "All items are ranked, training and validation pairs left out. RecBole's own metrics, this project's of "
        f"RecBole's vectors, and a form that sorts user by user agree within {AGREEMENT:g}, in every training.",
        "RecBole's models are trained by BPR, table is BPR's matrix factorization, lightgcn has 2 layers in both.",
    ]  # fmt: skip
    for each in found:
        sizes = each["sizes"]
        head += [
            "", f"## {each['data']}", "",
            f"{sizes['users']:,} users, {sizes['items']:,} items; {sizes['train']:,} training, {sizes['val']:,} "
            f"validation and {sizes['test']:,} test pairs. RecBole's learning rate: "
            + ", ".join(f"{encoder} {next(iter(by_name.values()))[0]['rate']:g}" for encoder, by_name in each["results"].items())
            + f", of {', '.join(f'{rate:g}' for rate in options.rates)}.", "",
            *table(each["results"]),
        ]  # fmt: skip
    return "\n".join(head) + "\n"


def measure_data(name: str, data: list[str], options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_pairs(Path(folder), data)
        encoders = [encoder for encoder in RECBOLE if options.only in (None, encoder)]
        results = {encoder: measure_encoder(encoder, Path(folder), data, options) for encoder in encoders}
    return {"data": name, "sizes": sizes, "results": results}


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recbole", help="the Python of RecBole's environment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=100, help="of RecBole, at most; this project has its presets'")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="RecBole's learning rates")
    parser.add_argument("--data", nargs="+", default=BUNDLED, help="overrides that name other data")
    parser.add_argument("--ml100k", type=Path, help="RecBole's ml-100k.inter: also on it")
    parser.add_argument("--only", choices=sorted(RECBOLE), help="one encoder, no page")
    parser.add_argument("--quick", action="store_true", help="to see that it works: one seed, one epoch, no page")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Case(**json.loads(options.measure)))))
        return 0
    if not options.recbole or subprocess.run([options.recbole, "-c", "import recbole"], capture_output=True).returncode:
        print("skipped: --recbole names no Python that imports recbole; how to make one: see --help", file=sys.stderr)
        return 2
    if options.quick:
        options.seeds, options.epochs, options.rates = 1, 1, options.rates[-1:]
    found = [measure_data(" ".join(options.data) or "Bundled data", options.data, options)]
    if options.ml100k:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure_data("MovieLens-100k", write_ml100k(options.ml100k, Path(folder)), options))
    flags = [f"--{name} {getattr(options, name)}" for name in ("seeds", "batch", "epochs")]
    flags += ["--ml100k ml-100k.inter"] if options.ml100k else []
    text = page(found, options, " ".join(["python scripts/benchmark_recommendation.py --recbole ENV/bin/python", *flags]))
    if options.quick or options.only or options.data != BUNDLED:
        print(text)
        return 0
    write_page("recommendation.md", text)
    (PAGES / "recommendation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
