"""Samples that a device holds: a batch is fetched without waiting for the device."""

import pytest
import torch
from conftest import TINY, config
from torch.utils._python_dispatch import TorchDispatchMode

from repel.base import seeding
from repel.data.sampler import BatchIndices
from repel.data.views import ViewDraws
from repel.engine.build import build_data


class Copies(TorchDispatchMode):
    """Which copies from the host to a device were made, and whether each lets the host go on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function is torch.ops.aten._to_copy.default and str(options.get("device")) == "meta":
            self.found.append(options.get("non_blocking", False))
        return function(*arguments, **options)


@pytest.mark.parametrize("typed", [TINY, ["experiment=text", "data.vocabulary=200", "data.max_tokens=8"]])
def test_a_batch_is_fetched_without_waiting(typed, few_glosses):
    data = build_data(config(*typed))
    data.setup()
    places = torch.tensor([3, 1])
    draws = ViewDraws(data.views, 0, seeding.VIEWS, BatchIndices(0, 0, places, slice(0, 2), 2))
    cache = data.splits.train.to(torch.device("meta"))
    with Copies() as copies:
        cache.fetch(places, draws)
    assert copies.found == [True]
