"""Folders of runs as a sweep leaves them; small sweeps in a process that may kill itself."""

import csv
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import ranks
import yaml
from conftest import ROOT, TINY, make_folder

from repel.engine import runs


def make_run(folder: Path, overrides: list[str], metrics: dict | None, outcome: str | None = "finished", curve=()):
    """A run's folder as train.py leaves it."""
    folder.mkdir(parents=True)
    seed = next((int(o.removeprefix("seed=")) for o in overrides if o.startswith("seed=")), 1)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "trainer": {}}))
    (folder / "environment.json").write_text(
        json.dumps({"overrides": overrides} | ({"outcome": outcome, "objective": 0.5} if outcome else {}))
    )
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if curve:
        rows = [f"{epoch},{9 * epoch},{value},1.0\n,,,2.0\n" for epoch, value in enumerate(curve)]
        (folder / "metrics.csv").write_text("epoch,step,val/knn_top1,train/loss\n" + "".join(rows))
    return folder


BATCHES = 4  # an epoch


def run_train(arguments: list[str], cwd: str, log: str, kill_at: int | None, kill_in: str | None) -> None:
    """train.py in a process of its own, which kills itself with signal 9 after so many batches, or on a call."""
    import torch

    import repel.report.evaluate
    from repel.module import Contrastive

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def count(module, *args):
        with open(log, "a") as file:
            file.write(f"{module.seed} {module.trainer.global_step}\n")
        if kill_at and len(Path(log).read_text().splitlines()) == kill_at:
            die()

    torch.set_num_threads(1)
    Contrastive.on_train_batch_end = count
    if kill_in == "finish":
        repel.report.evaluate.finish = die
    if kill_in == "add_metrics":
        runs.add_metrics = die
    if kill_in == "claim":
        runs.write_environment = die
    sys.path.insert(0, str(ROOT))
    os.chdir(cwd)
    sys.argv = ["train.py", *arguments]
    from train import main

    main()


def in_process(arguments: list[str], cwd: Path, kill_at: int | None = None, kill_in: str | None = None):
    """Exit status, and (seed, optimizer steps done) after each batch that was trained."""
    log = cwd / "batches.txt"
    log.write_text("")
    arguments = ([str(a) for a in arguments], str(cwd), str(log), kill_at, kill_in)
    process = ranks.forked(run_train, *arguments)
    process.start()
    process.join(180)
    process.kill()  # if it hangs
    process.join()
    return process.exitcode, [tuple(map(int, line.split())) for line in log.read_text().splitlines()]


def count(batches: list[tuple[int, int]]) -> dict[int, int]:
    """Seed -> batches trained."""
    return Counter(seed for seed, _ in batches)


def small(tmp_path: Path) -> list[str]:
    """Options of runs that take a second: images of one color a class; nothing is measured at the end."""
    make_folder(tmp_path / "images", ["red", "green"], 60)
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12", "data.batch_size=8",
              "data.val_fraction=0.1"]  # fmt: skip
    other = ("data.batch_size", "data.val_fraction", "encoder.width", "evaluators")  # each once, in any order
    tiny = [option for option in TINY if not option.startswith(other)]
    other = ["encoder.width=8", "evaluators=[]", f"trainer.limit_train_batches={BATCHES}", "logger.tensorboard=null"]
    return [*tiny, *source, *other]


def steps(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
