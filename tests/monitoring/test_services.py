"""Loggers of services, with the real wandb, offline, and a file store of MLflow, where they are installed."""

import sys
import types

import pytest
from conftest import TINY, command, config
from lightning.pytorch.utilities import rank_zero_only
from runs_here import train

from repel.engine.build import build_trainer
from repel.monitoring import services

LOGGED = ["logger=[default,wandb]", "logger.wandb.offline=true", "evaluators=[]", "evaluation.map=null",
          "trainer.max_epochs=1", "trainer.limit_train_batches=2"]  # fmt: skip


def ids(folder) -> list[str]:
    """Of W&B's runs in a run folder, in the order of their starts."""
    begun = sorted(path.name for path in folder.glob("wandb/offline-run-*/"))
    assert all(list(folder.glob(f"wandb/{name}/*.wandb")) for name in begun)
    return [name.rpartition("-")[2] for name in begun]


@pytest.fixture
def wandb(monkeypatch):
    module = pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    yield module
    services.close_loggers(0)


@pytest.mark.slow
def test_each_run_has_a_run_of_its_own_and_goes_on_in_it(wandb, tmp_path):
    finished = []
    for name in ("a", "b", "a"):
        logger = services.wandb_logger(str(tmp_path / name), "repel", offline=True)
        logger.log_metrics({"train/loss": 1.0}, step=1)
        finished.append((wandb.run, logger.experiment))
        services.close_loggers(1)
        assert wandb.run is None
    assert all(of_process is of_logger for of_process, of_logger in finished)  # Lightning took no other's
    assert len({id(run) for run, _ in finished}) == 3
    (b,) = ids(tmp_path / "b")
    first, again = ids(tmp_path / "a")
    assert first == again != b


def test_a_run_that_resumes_goes_on_in_the_newest_of_its_runs(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda **options: given.append(options["id"]))
    for begun in ("", "run-20260102_000000-b-2", "offline-run-20260101_000000-a", "offline-run-20260103_000000-c"):
        (tmp_path / "wandb" / begun).mkdir(parents=True, exist_ok=True)
        (tmp_path / "wandb/latest-run").mkdir(exist_ok=True)
        services.wandb_logger(str(tmp_path), "repel", offline=True)
    assert given == [None, "b-2", "b-2", "c"]


@pytest.mark.slow
def test_a_sweep_logs_its_jobs_apart(wandb, tmp_path):
    sweep = ["-m", *TINY, *LOGGED, "hydra.sweep.dir=sweep"]
    result = command("train.py", *sweep, "seed=1,2", cwd=tmp_path, WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    assert "already in progress" not in result.stderr
    (first,), (second,) = (ids(tmp_path / "sweep" / job) for job in "01")
    assert first != second


@pytest.mark.slow
def test_a_run_that_resumes_goes_on_in_its_run_of_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    for status in (143, 0):
        services.mlflow_logger(str(tmp_path / "run"), "repel", None).log_metrics({"train/loss": 1.0}, step=status)
        services.close_loggers(status)
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("repel").experiment_id])
    assert (found.info.run_name, found.info.run_id) == ("run", (tmp_path / "run/mlflow.txt").read_text().strip())
    assert [metric.step for metric in client.get_metric_history(found.info.run_id, "train/loss")] == [143, 0]


@pytest.mark.parametrize(("typed", "variable", "uri"), [
    (None, "", "sqlite:///mlflow.db"), (None, "http://a", "http://a"), ("http://b", "http://a", "http://b"),
])  # fmt: skip
def test_mlflow_is_asked_for_the_run_of_the_folder(monkeypatch, tmp_path, typed, variable, uri):
    class Error(Exception):
        pass

    class Logger:
        def __init__(self, project, **options):
            given.append((project, options["run_name"], options["tracking_uri"], options["run_id"]))

        @property
        def run_id(self):
            if answers[0] is None:
                raise Error("no server")
            return answers.pop(0)

    given, answers = [], ["first", "second"]
    monkeypatch.setattr("lightning.pytorch.loggers.MLFlowLogger", Logger)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", types.SimpleNamespace(MlflowException=Error))
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    for _ in range(2):
        services.mlflow_logger(str(tmp_path / "run"), "repel", typed)
    assert given == [("repel", "run", uri, None), ("repel", "run", uri, "first")]
    answers.insert(0, None)
    with pytest.raises(ValueError, match=r"no server; set logger\.mlflow\.tracking_uri=URI"):
        services.mlflow_logger(str(tmp_path / "run"), "repel", typed)


@pytest.mark.slow
def test_what_mlflow_stores_says_how_the_job_ended(tmp_path, monkeypatch):
    """Also where the evaluation fails, after a training that succeeded."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": f"file:{tmp_path}/store"}
    client = mlflow.MlflowClient(logger["tracking_uri"])
    text = "+logger.mlflow={" + ",".join(f"{key}:'{value}'" for key, value in logger.items()) + "}"
    for number, (status, word) in enumerate([(0, "FINISHED"), (1, "FAILED"), (143, "KILLED")]):
        train(tmp_path / str(number), "trainer.max_epochs=1", "trainer.limit_train_batches=2", text)
        services.close_loggers(status)
        (experiment,) = (e for e in client.search_experiments() if e.name == "lightning_logs")
        found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
        assert (len(found), found[0].info.status) == (number + 1, word)


@pytest.mark.parametrize("answer", ["no account", "no connection"])
def test_without_an_account_or_a_server_nothing_is_read(monkeypatch, tmp_path, answer):
    class Error(Exception):
        pass

    def login():
        if answer == "no connection":
            raise Error("no connection\nto https://api.wandb.ai")
        return False

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(login=login, Error=Error))
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda **options: object())
    monkeypatch.setattr(services, "_loggers", [])
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(Exception, match=rf"{answer}.*logger.wandb.offline=true"):
        build_trainer(config("logger=[default,wandb]"), tmp_path, None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    services.wandb_logger(str(tmp_path), "repel", offline=False)
