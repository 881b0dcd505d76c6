"""The presets for users and items, each of which trains; its checkpoint is evaluated."""

import pytest
import torch
from conftest import config, options_of
from pair_runs import make_log
from runs_here import history, status

from repel.engine import runs
from repel.report.evaluate import evaluate

PRESETS = options_of("experiment", "interactions")
SMALL = ["data=interactions_lightgcn", "encoder.width=8", "data.batch_size=32", "trainer.max_epochs=1",
         "trainer.limit_train_batches=3", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
         "callbacks.pairs=null", "callbacks.progress=null", "logger.tensorboard=null"]  # fmt: skip
EVALUATION = ["evaluation.k=5", "evaluation.temperature=0.1"]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return make_log(tmp_path_factory.mktemp("pairs") / "log")


def test_required_presets_are_there():
    graphs = {"lightgcn", "sgl", "simgcl", "xsimgcl"}
    assert {"recommendation", "bpr", "ssm", "dns", "simplex", "directau", "two_tower", *graphs} <= set(PRESETS)
    assert {"reco_hard", "reco_soft", "recommendation_large"} <= set(PRESETS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_it_trains_and_its_checkpoint_is_evaluated(name, log, tmp_path):
    code, line = status(tmp_path / "run", f"experiment={name}", *SMALL, f"data.root={log}")
    assert code == 0, line
    losses = [float(row["train/loss"]) for row in history(tmp_path / "run") if row["train/loss"]]
    assert len(losses) == len(set(losses)) == 3
    for source in ("last", "best"):
        checkpoint = torch.load(tmp_path / f"run/checkpoints/{source}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 3
    typed = [f"ckpt={tmp_path / 'run'}", *EVALUATION]
    evaluate(config(*typed, name="evaluate"), tmp_path / "evaluation", typed)
    metrics = runs.read_metrics(tmp_path / "evaluation")
    assert 0 < metrics["test/ndcg_at_20"] <= 1
    assert 0 < metrics["test/recall_at_20"] <= 1
