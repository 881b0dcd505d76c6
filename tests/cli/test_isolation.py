"""Nothing of a job outlives it in a sweep: what it changed for all of the process, its memory, what it logs to."""

import gc
import logging
import os
import random
import sys
import warnings
import weakref

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import DummyLogger

from repel.base.signals import Stopped
from repel.cli.command import entry_point
from repel.engine.outcomes import CRASHED, DIVERGED
from repel.module import Diverged
from repel.monitoring import services


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Runs a job twice in a sweep, in this process: the exit status."""
    monkeypatch.setattr("repel.cli.command.raise_on_signal", lambda: None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command sets
    typed = ["-m", "ckpt=x", "name=first,second", f"hydra.sweep.dir={tmp_path}", "hydra/hydra_logging=none"]

    def run(job) -> int:
        monkeypatch.setattr(sys, "argv", ["command.py", *typed])
        try:
            entry_point("export")(job)()
        except SystemExit as exit:
            return exit.code
        return 0

    return run


def state() -> dict:
    """What a job can change for all of its process."""
    return {
        "environment": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path),
        "filters": list(warnings.filters),
        "root": (logging.root.level, list(logging.root.handlers)), "threads": torch.get_num_threads(),
        "seeds": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "matplotlib": (matplotlib.rcParams["font.size"], plt.get_fignums()), "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(), "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "anomaly": torch.is_anomaly_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }  # fmt: skip


def change_everything() -> None:
    os.environ["PL_GLOBAL_SEED"] = "12"
    del os.environ["HOME"]
    os.chdir("/")
    sys.path.insert(0, "/nowhere")
    warnings.simplefilter("error")
    logging.basicConfig(level=logging.DEBUG, force=True)
    torch.set_num_threads(torch.get_num_threads() + 1)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    matplotlib.rcParams["font.size"] = 30
    plt.figure()
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_the_next_job_finds_the_process_as_the_first_did(sweep, outcome):
    found = []

    def job(cfg, folder):
        found.append(state())
        change_everything()
        for name, value in state().items():
            assert value != found[0][name], name
        if outcome == "failed":
            raise RuntimeError("failed")

    usual = torch.get_num_threads()
    assert sweep(job) == (0 if outcome == "done" else CRASHED)
    first, second = found
    for name, value in first.items():
        assert second[name] == value, name
    assert torch.get_num_threads() == usual


def test_the_memory_of_a_job_that_failed_is_free(sweep):
    weights = []

    def job(cfg, folder):
        if any(alive() is not None for alive in weights):
            gc.collect()
        assert [alive for alive in weights if alive() is not None] == []
        module = torch.nn.Linear(2, 2)
        weights.append(weakref.ref(module))
        raise RuntimeError("failed")

    assert sweep(job) == CRASHED
    assert len(weights) == 2


@pytest.mark.parametrize("status", [0, CRASHED, *(pytest.param(n, marks=pytest.mark.slow) for n in (DIVERGED, 143))])
def test_loggers_are_closed_with_the_outcome_of_their_job(sweep, monkeypatch, status):
    class Logged(DummyLogger):
        def finalize(self, status):
            closed.append(status)

    class Service:
        run = "begun by a job"

        def finish(self, exit_code):
            closed.append(exit_code)

        def teardown(self, exit_code):
            closed.append("over")

    closed, found = [], []
    monkeypatch.setitem(sys.modules, "wandb", Service())

    def job(cfg, folder):
        found.append(list(closed))
        services.keep_logger(Logged())
        if status:
            raise {CRASHED: RuntimeError("x"), DIVERGED: Diverged("x"), 143: Stopped(15)}[status]

    assert sweep(job) == status
    one = [*["failed"][: status > 0], status, "over"]
    assert found == ([[], one] if status != 143 else [[]])  # a signal ends the sweep
    assert closed == one * len(found)


def test_a_service_that_cannot_be_closed_is_a_line(monkeypatch, capsys):
    class Broken(MLFlowLogger):
        def __init__(self):
            """Without mlflow."""

        def finalize(self, status):
            raise RuntimeError(f"no network for {status}")

    services.keep_logger(Broken())
    services.close_loggers(143)
    services.close_loggers(1)  # each once
    assert capsys.readouterr().err == "note     Broken could not be closed: no network for KILLED\n"
