"""Where runs are compared: HPARAMS of TensorBoard and a sweep's report take metrics of rankings."""

from types import SimpleNamespace

from sweep_runs import make_run

from repel.cli import sweep_report
from repel.monitoring import tensorboard


def shown(values, monkeypatch) -> list[str]:
    """The metrics that HPARAMS has of a run with this config."""
    written = []
    monkeypatch.setattr(tensorboard, "_add", lambda logger, tag, content: written.append(content))
    monkeypatch.setattr(tensorboard, "add_text", lambda *_: None)
    tensorboard.log_run(SimpleNamespace(experiment=None), values, {})
    return [info.display_name for info in written[0].experiment.metric_infos]


def test_hparams_have_rankings_where_they_are_measured(monkeypatch):
    ranked = shown({"evaluators.ranking._target_": "repel.evaluation.ranking.Ranking"}, monkeypatch)
    assert ranked[:3] == ["test/ndcg_at_20", "test/recall_at_20", "val/ndcg_at_20"]
    assert "test/ndcg_at_20" not in shown({"evaluators.knn._target_": "repel.evaluation.knn.KNN"}, monkeypatch)


def test_a_sweeps_report_takes_what_its_runs_have(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_report, "attempt", lambda *_: None)  # no figures
    for folder, metrics in (("pairs", {"test/ndcg_at_20": 0.25}), ("images", {"test/knn_top1": 0.5})):
        for number in range(2):
            make_run(tmp_path / folder / str(number), [f"seed={number}"], metrics)
        text = sweep_report.report(tmp_path / folder, None, None)
        assert next(iter(metrics)) in text
