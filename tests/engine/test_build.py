"""Parts built from a config."""

import torch
from conftest import TINY, config, same

from repel.engine.build import build_module


def test_the_jobs_own_seed_decides_the_weights():
    """Whatever ran before in this process, as an earlier job of a sweep."""
    first = build_module(config(*TINY)).state_dict()
    torch.rand(3)
    assert same(build_module(config(*TINY)).state_dict(), first)
    assert not same(build_module(config(*TINY, "seed=2")).state_dict(), first)
