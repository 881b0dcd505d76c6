"""Trainings on pairs of users and items, this project's and RecBole's, each in a process of its own.

Both get the same pairs in the same three splits, and both write the vectors of the epoch that the validation split
chooses, by NDCG@20; one form scores all of them.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _benchmark import compose_config
from omegaconf import OmegaConf
from torch import Tensor

from repel.base.cores import limit_threads, usable_cores
from repel.evaluation.ranking import CosineScorer, KnownItems, Scorer
from repel.evaluation.ranking_metrics import rank_all

DRIVER = Path(__file__).with_name("_recbole_driver.py")
PARTS = {"train": "train", "val": "valid", "test": "test"}  # a split's name here and RecBole's
WIDTH, K = 64, 20
# nothing but the loop: no validation of its own, logs, checkpoints
BARE = ["callbacks=none", "callbacks.last=null", "callbacks.best=null", "logger=none", "trainer.limit_val_batches=0"]


@dataclass(frozen=True)
class Case:
    """One training.

    recbole: the Python of RecBole's environment; None: this project trains.
    options: RecBole's model, lr, epochs and so on; or this project's overrides of train.py's config.
    folder: has pairs.npz and RecBole's files; the vectors are written there.
    """

    name: str
    folder: str
    seed: int
    batch: int
    recbole: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Train in a new process; what was measured, with the test split's metrics."""
        command = [sys.executable, str(Path(__file__).with_name("benchmark_recommendation.py")), "--measure"]
        given = json.dumps(asdict(self))
        environment = dict(os.environ)
        if self.recbole:
            splits = load_pairs(Path(self.folder))
            given = json.dumps(
                {"folder": self.folder, "seed": self.seed, "batch": self.batch, "width": WIDTH} | self.options
                | {"threads": threads(), "users": int(splits["users"]), "items": int(splits["items"])}
            )  # fmt: skip
            command = [self.recbole, "-W", "ignore", str(DRIVER)]
            environment.pop("PYTHONPATH", None)
        with tempfile.TemporaryDirectory() as scratch:  # where RecBole writes logs and checkpoints
            result = subprocess.run([*command, given], capture_output=True, encoding="utf-8", cwd=scratch, env=environment)
        if result.returncode:
            raise SystemExit(f"error: {self.name}, seed {self.seed} failed:\n{result.stderr}")
        return json.loads(result.stdout.splitlines()[-1]) | score(Path(self.folder), product=bool(self.recbole))


class ProductScorer:
    """Scores by the scalar product, as RecBole's models do."""

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor):
        self.user_vectors, self.item_vectors = user_vectors, item_vectors

    def scores(self, users: Tensor) -> Tensor:
        return self.user_vectors[users] @ self.item_vectors.T


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", usable_cores()))


def load_pairs(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "pairs.npz") as file:
        return dict(file)


def write_pairs(folder: Path, overrides: list[str]) -> dict[str, int]:
    """The splits of this project's data, as they are and as RecBole reads them; returns how many there are of what."""
    from repel.engine.build import build_data

    data = build_data(resolved("experiment=recommendation", *overrides))
    data.setup()
    splits, store = data.splits, data.splits.train.store
    pairs = {name: getattr(splits, name).x.numpy() for name in PARTS}
    np.savez(folder / "pairs.npz", users=store.users, items=store.items, **pairs)
    (folder / "pairs").mkdir()
    for name, part in PARTS.items():
        lines = ["user:token\titem:token", *(f"{user}\t{item}" for user, item in pairs[name])]
        (folder / "pairs" / f"pairs.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"users": store.users, "items": store.items} | {name: len(x) for name, x in pairs.items()}


def score(folder: Path, product: bool) -> dict[str, float]:
    """Of the vectors in a folder: recall and NDCG of the test split, training and validation pairs left out."""
    splits = load_pairs(folder)
    with np.load(folder / "vectors.npz") as file:
        vectors = [torch.from_numpy(file[side]) for side in ("user", "item")]
    scorer = (ProductScorer if product else CosineScorer)(*vectors)
    known = np.concatenate([splits["train"], splits["val"]])
    return ranked(scorer, known, splits["test"], int(splits["users"]))


def ranked(scorer: Scorer, known: np.ndarray, wanted: np.ndarray, users: int) -> dict[str, float]:
    pairs = (KnownItems.of(torch.from_numpy(x), users) for x in (known, wanted))
    found = rank_all(scorer, *pairs, [K], K).metrics
    return {name: found[f"{name}_at_{K}"].value for name in ("recall", "ndcg")}


def brute_force(folder: Path) -> dict[str, float]:
    """The same as score() of a scalar product, user by user and item by item: what both are checked against."""
    splits = load_pairs(folder)
    with np.load(folder / "vectors.npz") as file:
        users, items = file["user"].astype(np.float64), file["item"].astype(np.float64)
    known: dict[int, set[int]] = {}
    wanted: dict[int, set[int]] = {}
    for place, name in ((known, "train"), (known, "val"), (wanted, "test")):
        for user, item in splits[name].tolist():
            place.setdefault(user, set()).add(item)
    recalls, ndcgs = [], []
    for user, relevant in wanted.items():
        scores = items @ users[user]
        best = [item for item in np.argsort(-scores, kind="stable") if item not in known.get(user, ())][:K]
        gains = [1 / np.log2(rank + 2) for rank, item in enumerate(best) if item in relevant]
        recalls.append(len(gains) / len(relevant))
        ndcgs.append(sum(gains) / sum(1 / np.log2(rank + 2) for rank in range(min(K, len(relevant)))))
    return {"recall": float(np.mean(recalls)), "ndcg": float(np.mean(ndcgs))}


def resolved(*overrides: str) -> Any:
    return OmegaConf.create(OmegaConf.to_container(compose_config(*overrides), resolve=True))


def peak() -> int:
    """This process's largest resident set so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(case: Case) -> dict[str, Any]:
    """Train by this project, in this process, and write the chosen vectors."""
    from _text_training import fit
    from lightning.pytorch import Callback

    from repel.engine.build import build_data, build_module

    limit_threads()
    cfg = resolved(*case.overrides, f"data.batch_size={case.batch}", f"seed={case.seed}", "trainer.accelerator=cpu")
    module, data = build_module(cfg), build_data(cfg)
    data.setup()
    module.give_data_info(data.splits.train.info())
    pairs, store = load_pairs(Path(case.folder)), data.splits.train.store
    assert all(np.array_equal(getattr(data.splits, name).x.numpy(), pairs[name]) for name in PARTS), "other splits"
    everybody = [entities.x for entities in (store.all_users(), store.all_items())]
    epochs: list[float] = []
    cpu: list[float] = []
    curve: list[float] = []
    best: list[np.ndarray] = []

    class Epochs(Callback):
        """Time of training alone; then validation, by the vectors of all users and items."""

        def on_train_epoch_start(self, *_: Any) -> None:
            self.started = time.perf_counter(), time.process_time()

        def on_train_epoch_end(self, *_: Any) -> None:
            epochs.append(time.perf_counter() - self.started[0])
            cpu.append(time.process_time() - self.started[1])
            module.eval()
            with torch.no_grad():
                vectors = [module(x) for x in everybody]
            module.train()
            curve.append(ranked(CosineScorer(*vectors), pairs["train"], pairs["val"], store.users)["ndcg"])
            if curve[-1] == max(curve):
                best[:] = [x.numpy() for x in vectors]

    before, started = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(cfg, module, data, Path(folder), [Epochs()])
    seconds, after = time.perf_counter() - started, peak()
    np.savez(Path(case.folder, "vectors.npz"), user=best[0], item=best[1])
    return {
        "epochs": epochs, "cpu_epochs": cpu, "curve": curve, "seconds": seconds, "peak": after,
        "growth": after - before, "threads": torch.get_num_threads(), "steps": data.batches_per_epoch(),
    }  # fmt: skip
