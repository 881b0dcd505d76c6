"""One training by RecBole, for benchmark_recommendation.py, which starts it by the Python of RecBole's environment.

    PYTHON scripts/_recbole_driver.py '{"model": "LightGCN", ...}'

Imports nothing of the package. Its last line of output is JSON; vectors of the chosen epoch go into vectors.npz.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a ^C ends it without a traceback; the benchmark says what happened
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # RecBole's checkpoints, written here, hold its config object

import numpy as np
import torch
from _benchmark import peak_memory
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed


class TimedTrainer(Trainer):
    """Keeps how long each epoch trained, by the clock and by the CPU: RecBole's own loop, without its validation."""

    def __init__(self, config: Config, model: torch.nn.Module):
        super().__init__(config, model)
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def _train_epoch(self, *args: Any, **kwargs: Any) -> Any:
        started, cpu = time.perf_counter(), time.process_time()
        loss = super()._train_epoch(*args, **kwargs)
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - cpu)
        return loss


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """RecBole's defaults, but for what both libraries are given alike."""
    return {
        "data_path": case["folder"], "benchmark_filename": ["train", "valid", "test"],
        "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "load_col": {"inter": ["user", "item"]},
        "embedding_size": case["width"], "train_batch_size": case["batch"], "learning_rate": case["lr"],
        "epochs": case["epochs"], "stopping_step": case["patience"], "seed": case["seed"],
        "metrics": ["Recall", "NDCG"], "topk": [20], "valid_metric": "NDCG@20", "metric_decimal_place": 10,
        "use_gpu": False, "state": "ERROR", "show_progress": False,
        **({"n_layers": case["layers"]} if case["model"] == "LightGCN" else {}),
    }  # fmt: skip


@torch.no_grad()
def vectors(model: torch.nn.Module, dataset: Any, users: int, items: int) -> dict[str, np.ndarray]:
    """Final vectors of users and items, by the numbers of the files; zero where no file has the number."""
    if type(model).__name__ == "LightGCN":
        found = dict(zip(("user", "item"), model.forward(), strict=True))
    else:
        found = {"user": model.user_embedding.weight, "item": model.item_embedding.weight}
    placed = {}
    for side, number in (("user", users), ("item", items)):
        tokens = dataset.field2id_token[side]
        rows = np.zeros((number, found[side].shape[1]), np.float32)
        rows[tokens[1:].astype(int)] = found[side][1:].numpy()  # 0 is RecBole's padding
        placed[side] = rows
    return placed


def main() -> None:
    case = json.loads(sys.argv[1])
    config = Config(model=case["model"], dataset="pairs", config_dict=settings(case))
    torch.set_num_threads(case["threads"])
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(case["model"])(config, train.dataset).to(config["device"])
    trainer, curve, before, started = TimedTrainer(config, model), [], peak_memory(), time.perf_counter()
    trainer.fit(train, valid, verbose=False, callback_fn=lambda _, score: curve.append(float(score)))
    seconds, after = time.perf_counter() - started, peak_memory()
    on_test = trainer.evaluate(test, load_best_model=True, show_progress=False)
    np.savez(Path(case["folder"], "vectors.npz"), **vectors(model, dataset, case["users"], case["items"]))
    found = {
        "epochs": trainer.seconds, "cpu_epochs": trainer.cpu_seconds, "curve": curve, "seconds": seconds, "peak": after,
        "growth": after - before, "threads": torch.get_num_threads(), "steps": len(train),
        "own_recall": float(on_test["recall@20"]), "own_ndcg": float(on_test["ndcg@20"]),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
