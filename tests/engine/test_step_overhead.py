"""What a step does without Lightning's and Hydra's general forms: the same values, by less work."""

from functools import partial

import pytest
import torch
from conftest import config
from hydra.utils import instantiate
from lightning.pytorch.profilers import SimpleProfiler

from repel.engine.build import build_trainer
from repel.engine.profiling import NoProfiler, make_profiler
from repel.model.optim import fill_length


def test_without_a_profiler_nothing_is_measured(tmp_path):
    trainer = build_trainer(config(), tmp_path)
    assert isinstance(trainer.profiler, NoProfiler)
    with trainer.profiler.profile("outer"), trainer.profiler.profile("inner"):
        pass
    with pytest.raises(KeyError), trainer.profiler.profile("failing"):
        raise KeyError
    assert trainer.profiler.summary() == ""
    assert isinstance(make_profiler("simple", tmp_path), SimpleProfiler)


def test_a_schedule_is_called_without_hydras_checks():
    """They were made when it was built."""
    built = instantiate({"_target_": "repel.model.optim.cosine", "_partial_": True, "warmup_epochs": 2,
                         "max_epochs": None, "final": 0.1})  # fmt: skip
    for epoch in torch.linspace(0, 10, 7).tolist():
        assert fill_length(built, 10.0)(epoch) == built(epoch, max_epochs=10.0)
    assert type(fill_length(built, 10.0)) is partial
    assert fill_length(partial(max, 1.0), 10.0)(0.5) == 1.0
