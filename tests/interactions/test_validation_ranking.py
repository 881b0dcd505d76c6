"""val/ndcg_at_20 during training: what it is, and all that follows it."""

import csv
from types import SimpleNamespace

import pytest
import torch
from pair_runs import make_log, train_pairs

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module
from repel.evaluation import ranking_metrics
from repel.monitoring import progress, validation_ranking
from repel.monitoring.objective import objective
from repel.monitoring.validation_ranking import ValidationRanking


def curve(folder, name) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def features(cfg, checkpoint, data):
    """Vectors of users and items as the checkpoint's encoder makes them."""
    module = build_module(cfg)
    module.load_state_dict(checkpoint["state_dict"])
    store = data.splits.train.store
    with torch.no_grad():
        return [module.encoder.eval()(entities.x) for entities in (store.all_users(), store.all_items())]


def test_it_is_the_ndcg_of_the_validation_pairs_and_chooses_the_best_checkpoint(tmp_path):
    cfg, data = train_pairs(make_log(tmp_path / "log"), tmp_path / "run", "trainer.max_epochs=3", "optimizer.lr=0.1")
    train, val = (split.x for split in (data.splits.train, data.splits.val))
    ndcg, recall = (curve(tmp_path / "run", f"val/{name}_at_20") for name in ("ndcg", "recall"))
    last, best = (checkpoint_io.load(tmp_path / f"run/checkpoints/{name}.ckpt") for name in ("last", "best"))
    measured = ranking_metrics(*features(cfg, last, data), train, val, 20)
    assert (ndcg[-1], recall[-1]) == pytest.approx((measured["ndcg_at_20"], measured["recall_at_20"]), abs=1e-6)
    assert runs.read_metrics(tmp_path / "run")["val/ndcg_at_20"] == pytest.approx(ndcg[-1], abs=1e-6)
    chosen = ranking_metrics(*features(cfg, best, data), train, val, 20)["ndcg_at_20"]
    state = best["callbacks"]["BestCheckpoint"]
    assert (state["best"], state["metric"]) == (pytest.approx(max(ndcg), abs=1e-6), "val/ndcg_at_20")
    assert chosen == pytest.approx(max(ndcg), abs=1e-6)
    assert len(ndcg) == 3
    assert len(set(ndcg)) > 1


def test_of_some_users_alone(tmp_path):
    """Those evenly spaced among the users with a validation pair."""
    log = make_log(tmp_path / "log")
    cfg, data = train_pairs(log, tmp_path / "run", "callbacks.ranking.users=7", "trainer.max_epochs=1")
    train, val = (split.x for split in (data.splits.train, data.splits.val))
    users = val[:, 0].unique()
    some = users[torch.arange(7) * len(users) // 7]
    pairs = val[torch.isin(val[:, 0], some)]
    last = checkpoint_io.load(tmp_path / "run/checkpoints/last.ckpt")
    expected = ranking_metrics(*features(cfg, last, data), train, pairs, 20)
    assert curve(tmp_path / "run", "val/ndcg_at_20") == pytest.approx([expected["ndcg_at_20"]], abs=1e-6)
    with pytest.raises(ValueError, match=r"callbacks\.ranking\.users must be null or at least 1, got 0"):
        ValidationRanking(users=0)


def test_more_ndcg_is_better_and_it_comes_before_other_metrics():
    metrics = {name: torch.tensor(value) for name, value in (("val/loss", 3.0), ("val/knn_top1", 0.5))}
    assert objective({"val/loss": metrics["val/loss"]}) == -3.0
    assert objective(metrics) == 0.5
    assert objective(metrics | {"val/ndcg_at_20": torch.tensor(0.25)}) == 0.25


def test_the_line_of_an_epoch_says_it():
    known = {name: torch.tensor(0.5) for name in ("val/loss", "val/ndcg_at_20", "val/recall_at_20", "val/h_x")}
    shown, trainer = progress.Progress(), SimpleNamespace(sanity_checking=False, callback_metrics=known)
    shown.on_validation_end(trainer, None)
    assert shown.latest == "val/loss 0.5000  val/ndcg_at_20 0.5000  val/recall_at_20 0.5000"


def test_other_data_is_refused():
    data = SimpleNamespace(splits=SimpleNamespace(train=None, val=None))
    data.splits.train = SimpleNamespace(modality=SimpleNamespace(noun="images"))
    trainer = SimpleNamespace(sanity_checking=False, datamodule=data)
    module = object.__new__(validation_ranking.Contrastive)
    with pytest.raises(ValueError, match=r"callbacks\.ranking ranks items for users, and this data is images"):
        ValidationRanking().on_validation_epoch_end(trainer, module)
