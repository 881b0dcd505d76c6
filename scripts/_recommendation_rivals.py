"""Trainings on pairs of users and items, this project's and RecBole's, each in a process of its own.

Both get the same pairs in the same three splits, and both write the vectors of the epoch that the validation split
chooses, by NDCG@20; one form scores all of them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _benchmark import compose_config, peak_memory
from _training import fit
from lightning.pytorch import Callback
from omegaconf import OmegaConf
from torch import Tensor

from repel.base.cores import limit_threads, usable_cores
from repel.data.samples import Splits
from repel.engine.build import build_data, build_module
from repel.evaluation.item_rankings import rank_all
from repel.evaluation.ranking import CosineScorer, KnownItems, Scorer
from repel.interactions.baselines import pair_baselines
from repel.module import Contrastive

DRIVER = Path(__file__).with_name("_recbole_driver.py")
PARTS = {"train": "train", "val": "valid", "test": "test"}  # a split's name here and RecBole's
WIDTH, K = 64, 20


@dataclass(frozen=True)
class Case:
    """One training.

    folder: has pairs.npz and RecBole's files; the vectors are written there.
    overrides: this project's, of train.py's config.
    recbole: the Python of RecBole's environment; None: this project trains.
    options: RecBole's model, lr, epochs, patience.
    """

    name: str
    folder: str
    seed: int
    batch: int
    overrides: list[str] = field(default_factory=list)
    recbole: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Train in a new process; what was measured, with the test split's metrics."""
        with tempfile.TemporaryDirectory() as scratch:  # where RecBole writes logs and checkpoints
            result = subprocess.run(self._command(), capture_output=True, encoding="utf-8", cwd=scratch)
        if result.returncode:
            raise SystemExit(f"error: {self.name}, seed {self.seed} failed:\n{result.stderr}")
        return json.loads(result.stdout.splitlines()[-1]) | score(Path(self.folder), product=bool(self.recbole))

    def _command(self) -> list[str]:
        if self.recbole is None:
            script = Path(__file__).with_name("benchmark_recommendation.py")
            return [sys.executable, str(script), "--measure", json.dumps(asdict(self))]
        pairs = load_pairs(Path(self.folder))
        given = {"folder": self.folder, "seed": self.seed, "batch": self.batch, "width": WIDTH, "threads": threads()}
        sizes = {side: int(pairs[side]) for side in ("users", "items")}
        return [self.recbole, "-W", "ignore", str(DRIVER), json.dumps(given | sizes | self.options)]


class ProductScorer:
    """Scores by the scalar product, as RecBole's models do."""

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor):
        self.user_vectors, self.item_vectors = user_vectors, item_vectors

    def scores(self, users: Tensor) -> Tensor:
        return self.user_vectors[users] @ self.item_vectors.T


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", usable_cores()))


def resolved(*overrides: str) -> Any:
    return OmegaConf.create(OmegaConf.to_container(compose_config(*overrides), resolve=True))


def read_splits(overrides: list[str]) -> Splits:
    """Of this project's data."""
    data = build_data(resolved("experiment=recommendation", *overrides))
    data.setup()
    return data.splits


def write_pairs(splits: Splits, folder: Path) -> dict[str, int]:
    """The splits as arrays and as RecBole reads them; returns how many there are of what."""
    store = splits.train.store
    pairs = {name: getattr(splits, name).x.numpy() for name in PARTS}
    np.savez(folder / "pairs.npz", users=store.users, items=store.items, **pairs)
    (folder / "pairs").mkdir()
    for name, part in PARTS.items():
        lines = ["user:token\titem:token", *(f"{user}\t{item}" for user, item in pairs[name])]
        (folder / "pairs" / f"pairs.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"users": store.users, "items": store.items} | {name: len(x) for name, x in pairs.items()}


def load_pairs(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "pairs.npz") as file:
        return dict(file)


def load_vectors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of users and of items."""
    with np.load(folder / "vectors.npz") as file:
        return file["user"], file["item"]


def score(folder: Path, product: bool) -> dict[str, float]:
    """Of the vectors in a folder: recall and NDCG of the test split, training and validation pairs left out."""
    vectors = [torch.from_numpy(x) for x in load_vectors(folder)]
    scorer = (ProductScorer if product else CosineScorer)(*vectors)
    return score_test(scorer, load_pairs(folder))


def score_test(scorer: Scorer, pairs: dict[str, np.ndarray]) -> dict[str, float]:
    return ranked(scorer, np.concatenate([pairs["train"], pairs["val"]]), pairs["test"], int(pairs["users"]))


def ranked(scorer: Scorer, known: np.ndarray, wanted: np.ndarray, users: int) -> dict[str, float]:
    pairs = (KnownItems.of(torch.from_numpy(x), users) for x in (known, wanted))
    found = rank_all(scorer, *pairs, [K], K).metrics
    return {name: found[f"{name}_at_{K}"].value for name in ("recall", "ndcg")}


def score_baselines(splits: Splits, folder: Path) -> dict[str, dict[str, Any]]:
    """Popular items, item-kNN and EASE."""
    pairs, found = load_pairs(folder), {}
    for each in pair_baselines(splits.train, splits.val):  # type: ignore[arg-type]
        assert each.scorer is not None
        scorer, chosen = each.scorer(torch.device("cpu"))
        found[each.label] = score_test(scorer, pairs) | {"options": chosen}
    return found


def brute_force(folder: Path) -> dict[str, float]:
    """The same as score() of a scalar product, user by user and item by item: what both are checked against."""
    pairs, (user_vectors, item_vectors) = load_pairs(folder), load_vectors(folder)
    known: dict[int, set[int]] = {}
    wanted: dict[int, set[int]] = {}
    for place, name in ((known, "train"), (known, "val"), (wanted, "test")):
        for user, item in pairs[name].tolist():
            place.setdefault(user, set()).add(item)
    recalls, ndcgs = [], []
    for user, relevant in wanted.items():
        scores = item_vectors.astype(np.float64) @ user_vectors[user].astype(np.float64)
        left = (item for item in np.argsort(-scores, kind="stable").tolist() if item not in known.get(user, ()))
        gains = [1 / np.log2(rank + 2) for rank, item in zip(range(K), left, strict=False) if item in relevant]
        recalls.append(len(gains) / len(relevant))
        ndcgs.append(sum(gains) / sum(1 / np.log2(rank + 2) for rank in range(min(K, len(relevant)))))
    return {"recall": float(np.mean(recalls)), "ndcg": float(np.mean(ndcgs))}


class Epochs(Callback):
    """Each epoch's time of training alone, then its NDCG on the validation split, and the vectors of the best."""

    def __init__(self, splits: Splits, pairs: dict[str, np.ndarray]):
        store = splits.train.store
        self.entities, self.pairs = [some.x for some in (store.all_users(), store.all_items())], pairs
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.curve: list[float] = []
        self.best: list[np.ndarray] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.started = self.ended = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.ended = time.perf_counter(), time.process_time()

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Any, module: Contrastive) -> None:
        for times, ended, started in zip((self.seconds, self.cpu_seconds), self.ended, self.started, strict=True):
            times.append(ended - started)
        module.eval()
        vectors = [module(x) for x in self.entities]
        module.train()
        found = ranked(CosineScorer(*vectors), self.pairs["train"], self.pairs["val"], int(self.pairs["users"]))
        self.curve.append(found["ndcg"])
        if found["ndcg"] > max(self.curve[:-1], default=-1):
            self.best = [x.clone().numpy() for x in vectors]


def measure(case: Case) -> dict[str, Any]:
    """Train by this project, in this process, and write the chosen vectors."""
    limit_threads()
    cfg = resolved(*case.overrides, f"data.batch_size={case.batch}", f"seed={case.seed}", "trainer.accelerator=cpu")
    module, data, pairs = build_module(cfg), build_data(cfg), load_pairs(Path(case.folder))
    data.setup()
    module.give_data_info(data.info())
    assert all(np.array_equal(getattr(data.splits, name).x.numpy(), pairs[name]) for name in PARTS), "other splits"
    epochs, before, started = Epochs(data.splits, pairs), peak_memory(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(cfg, module, data, Path(folder), [epochs])
    seconds, after = time.perf_counter() - started, peak_memory()
    np.savez(Path(case.folder, "vectors.npz"), user=epochs.best[0], item=epochs.best[1])
    return {
        "epochs": epochs.seconds, "cpu_epochs": epochs.cpu_seconds, "curve": epochs.curve, "seconds": seconds,
        "peak": after, "growth": after - before, "threads": torch.get_num_threads(), "steps": data.batches_per_epoch(),
    }  # fmt: skip
