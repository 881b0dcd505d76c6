"""What a run on users and items leaves, and evaluate.py: both checkpoints and the baselines, ranked."""

import json

import pytest
import torch
from conftest import config
from pair_runs import make_log, train_pairs

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module
from repel.engine.configs import load_config
from repel.evaluation import ranking_metrics
from repel.report.evaluate import evaluate, finish

KNN = ["evaluation.k=5", "evaluation.temperature=0.1"]  # null, for the run's own, is not resolved here
BASELINES = ("popular", "item_knn", "ease", "untrained")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its folder and its data."""
    root = tmp_path_factory.mktemp("pairs")
    cfg, data = train_pairs(make_log(root / "log"), root / "run", "trainer.max_epochs=3", "optimizer.lr=0.1")
    assert finish(cfg, root / "run", data) > 0
    return root / "run", data


def by_hand(checkpoint, cfg, data) -> dict[str, float]:
    module = build_module(cfg)
    module.load_state_dict(checkpoint["state_dict"])
    splits = data.splits
    store, known = splits.train.store, torch.cat([splits.train.x, splits.val.x])
    with torch.no_grad():
        vectors = [module.encoder.eval()(entities.x) for entities in (store.all_users(), store.all_items())]
    return ranking_metrics(*vectors, known, splits.test.x, [10, 20])


def test_both_checkpoints_and_the_baselines_are_ranked(run):
    folder, data = run
    metrics, cfg = runs.read_metrics(folder), load_config(runs.read_config(folder))
    for source, name in (("best", "test/"), ("last", "test/last_")):  # evaluation.checkpoint=best
        checkpoint = checkpoint_io.load(folder / f"checkpoints/{source}.ckpt")
        for key, value in by_hand(checkpoint, cfg, data).items():
            assert metrics[name + key] == pytest.approx(value, abs=1e-9), key
    for source in BASELINES:
        assert {f"baseline/{source}_recall_at_20", f"val/baseline_{source}_ndcg_at_20"} <= set(metrics)
    assert metrics["baseline/ease_ndcg_at_20"] > metrics["baseline/untrained_ndcg_at_20"]
    best = checkpoint_io.load(folder / "checkpoints/best.ckpt")["callbacks"]["BestCheckpoint"]["best"]
    assert metrics["val/ndcg_at_20"] == pytest.approx(best, abs=1e-6)


def test_records_say_what_was_chosen_and_on_how_many(run):
    folder, data = run
    records = {r["metric"]: r for r in json.loads((folder / "evaluation.json").read_text())["records"]}
    ease = records["baseline/ease_recall_at_20"]
    assert ease["settings"]["l2"] == records["val/baseline_ease_ndcg_at_20"]["settings"]["l2"]
    assert records["val/baseline_ease_ndcg_at_20"]["split"] == "val"
    assert {"neighbors", "shrink"} <= set(records["baseline/item_knn_recall_at_20"]["settings"])
    sizes = [len(part) for part in (data.splits.train, data.splits.val)]
    assert (ease["fitted_on"], ease["scored_on"]) == (sum(sizes), len(data.splits.test.x[:, 0].unique()))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "recall@20" in page
    assert '<img alt="Training"' in page
    assert '<img alt="Similarities"' not in page  # nothing that needs labels is drawn
    assert "Some test users" in page
    assert "Items and the items nearest to them" in page
    assert "95 % interval over users" in page


@pytest.mark.slow
def test_evaluate_ranks_by_default(run, tmp_path, capsys):
    folder, _ = run
    job = config(f"ckpt={folder}", *KNN, name="evaluate")
    assert evaluate(job, tmp_path / "evaluation", [f"ckpt={folder}"]) == runs.read_metrics(folder)["test/ndcg_at_20"]
    said = capsys.readouterr().out
    left_out = "note     evaluators=items is left out: no label is of 10 items"
    assert [line for line in said.splitlines() if line.startswith(("note", "no labels"))] == [left_out]
    metrics = runs.read_metrics(tmp_path / "evaluation")
    assert {name for name in metrics if "/z_" in name} == set()  # head=identity
    trained = runs.read_metrics(folder)
    assert all(value == trained[name] for name, value in metrics.items())


def test_another_log_is_refused_in_one_line(run, tmp_path):
    folder, _ = run
    typed = [f"ckpt={folder}", "data=interactions_lightgcn", f"data.root={make_log(tmp_path / 'log', 1)}"]
    with pytest.raises(ValueError, match="data= is another log, and a run on users and items knows those of its own"):
        evaluate(config(*typed, *KNN, name="evaluate"), tmp_path / "evaluation", typed)


def test_a_log_that_has_changed_is_refused(run, tmp_path):
    """A user or item more shifts the numbers of others."""
    folder, _ = run
    log = make_log(tmp_path / "log")
    with (log / "train.txt").open("a", encoding="utf-8") as file:
        file.write("70 1 2 3\n")
    typed = [f"ckpt={folder}", f"data_root={log}"]
    with pytest.raises(ValueError, match=r"the log has changed since the run began \(.* added.*\), and with it"):
        evaluate(config(*typed, *KNN, name="evaluate"), tmp_path / "evaluation", typed)


def test_evaluators_that_need_labels_are_named(run, tmp_path, capsys):
    folder, _ = run
    typed = [f"ckpt={folder}", "evaluators=[knn,ranking]"]
    evaluate(config(*typed, *KNN, name="evaluate"), tmp_path / "evaluation", typed)
    assert "no labels: there is no label metric to report, and knn left out\n" in capsys.readouterr().out
