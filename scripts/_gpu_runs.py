"""Whole runs on an accelerator, by train.py: SimCLR on CIFAR-10, and LightGCN on Gowalla."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _benchmark import ROOT
from _gpu_steps import Evidence, Given, LeftOut, Section
from lightning.pytorch import Callback

GOAL = 0.832  # kNN top-1, k = 10, of the recipe that conf/experiment/cifar10_simclr.yaml follows, after 100 epochs
# by this recipe, docs/recommendation.md; arXiv:2002.02126, table 4, where the epoch was chosen on test
GOWALLA = {"recall_at_20": ("0.180", "0.1830"), "ndcg_at_20": ("0.152", "0.1554")}
JPEG = ["data=image_folder", "data.image_size=32", "data.mean=[0.4914,0.4822,0.4465]",
        "data.std=[0.2470,0.2435,0.2616]"]  # fmt: skip
TINY = ["encoder=small", "~encoder.stem", "data.batch_size=16", "trainer.limit_train_batches=2", "evaluation.bank=64"]
# by this recipe, docs/recommendation.md; arXiv:2002.02126, table 4, where the epoch was chosen on test
GOWALLA = {"recall_at_20": ("0.180", "0.1830"), "ndcg_at_20": ("0.152", "0.1554")}
EVALUATION = 60.0  # seconds that are kept for what comes before and after training


class EpochClock(Callback):
    """Writes a line of JSON an epoch: seconds since training began, validation included, and the metrics so far.

    train.py takes it by `+callbacks.clock._target_=_gpu_runs.EpochClock`, with scripts/ on the path.
    """

    def __init__(self, file: str):
        self.file, self.began = Path(file), 0.0

    def on_train_start(self, *_: Any) -> None:
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        line = json.dumps({"epoch": trainer.current_epoch + 1, "seconds": time.monotonic() - self.began} | metrics)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def clock_time(seconds: float) -> str:
    """DD:HH:MM:SS, as trainer.max_time takes it."""
    whole = max(1, int(seconds))
    return f"00:{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def train(overrides: list[str], given: Given) -> tuple[dict[str, float], list[dict[str, float]]]:
    """train.py as a user runs it, as long as the time allows: its final metrics, and those of every epoch."""
    accelerator = "cpu" if given.device == "cpu" else "auto"
    limit = "null" if given.tiny else f"'{clock_time(given.left() - EVALUATION)}'"
    with tempfile.TemporaryDirectory() as folder:
        lines, run = Path(folder) / "epochs.jsonl", Path(folder) / "run"
        command = [sys.executable, str(ROOT / "train.py"), *overrides, f"trainer.accelerator={accelerator}",
                   f"trainer.max_time={limit}", f"seed={given.seed}", f"hydra.run.dir={run}", "callbacks.progress=null",
                   "+callbacks.clock._target_=_gpu_runs.EpochClock", f"+callbacks.clock.file={lines}"]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        result = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
        if result.returncode:
            raise RuntimeError(f"train.py ended with {result.returncode}: {result.stderr.strip().splitlines()[-1:]}")
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        return metrics, [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]


def first_time(epochs: list[dict[str, float]], name: str, goal: float) -> str:
    """When a metric first was as high, in words."""
    found = next((epoch for epoch in epochs if epoch.get(name, -1.0) >= goal), None)
    if found is None:
        best = max((epoch.get(name, -1.0) for epoch in epochs), default=-1.0)
        return f"not reached: at most {best:.4f} in {len(epochs)} epochs"
    return f"{found['seconds']:.0f} s, epoch {found['epoch']:.0f}"


def words_of(overrides: list[str], epochs: list[dict[str, float]]) -> str:
    shown = ["data.root=FOLDER" if word.startswith("data.root=") else word for word in overrides]
    return (
        f"`python train.py {shlex.join(shown)}` with `trainer.max_time`: "
        f"{len(epochs)} epochs in {epochs[-1]['seconds']:.0f} s, validation after each included."
    )


def cifar(given: Given) -> Evidence:
    """Time to the goal by the validation split's kNN, which chooses nothing; the test split is measured once."""
    copy = [] if given.cifar is None else [*JPEG, f"data.root={given.cifar}"]
    if given.tiny and given.cifar is None:
        copy = ["data=fashion_mini"]
    overrides = ["experiment=cifar10_simclr", *copy, *([*TINY, "trainer.max_epochs=1"] if given.tiny else [])]
    metrics, epochs = train(overrides, given)
    data = "CIFAR-10" if given.cifar is None else "CIFAR-10 (JPEG copy)"
    section = Section(f"SimCLR, ResNet-18, {data}", words_of(overrides, epochs), ["", "found"])
    section.rows = [
        [f"until kNN-10 is {GOAL:.1%} on the validation split", first_time(epochs, "val/knn_top1", GOAL)],
        ["kNN-10, test split, last epoch", f"{metrics['test/knn_top1']:.4f}"],
        ["linear, test split, last epoch", f"{metrics['test/linear_top1']:.4f}"],
        ["the recipe's, 100 epochs, 3 seeds", "kNN-10 0.832 ± 0.002, linear 0.856 ± 0.002"],
        ["images/s, last epoch", f"{epochs[-1].get('speed/samples_per_second', float('nan')):,.0f}"],
    ]
    return Evidence([section])


def gowalla(given: Given) -> Evidence:
    """The recipe of docs/recommendation.md, LightGCN with a corrected softmax; its epoch is chosen on validation."""
    overrides = ["experiment=recommendation_large", "negatives=known_popularity"]
    overrides += [f"encoder.width={8 if given.tiny else 64}"]
    if given.gowalla is not None:
        overrides += ["data=interactions_lightgcn", f"data.root={given.gowalla}"]
    elif not given.tiny:
        raise LeftOut("name the folder of Gowalla's train.txt and test.txt by --gowalla FOLDER")
    if given.tiny:
        overrides += ["data.batch_size=64", "trainer.limit_train_batches=2", "trainer.max_epochs=1"]
    else:
        overrides += ["data.batch_size=4096", "trainer.max_epochs=15"]
    metrics, epochs = train(overrides, given)
    head = ["test split", "found", "on a CPU", "LightGCN's paper"]
    section = Section("LightGCN, Gowalla", words_of(overrides, epochs), head)
    section.rows = [[name, f"{metrics[f'test/{name}']:.4f}", *of] for name, of in GOWALLA.items()]
    best = max(epochs, key=lambda epoch: epoch.get("val/ndcg_at_20", -1.0))
    section.rows.append(["best epoch by validation", f"{best['epoch']:.0f}, {best['seconds']:.0f} s", "-", "-"])
    return Evidence([section])
