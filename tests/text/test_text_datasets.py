"""Every dataset of conf/data that is texts."""

import pytest
from conftest import config, options_of

from repel.engine.build import build_data

SPECIAL = {}


@pytest.mark.parametrize("name", options_of("data", "text"))
def test_every_dataset_gives_tokens(name):
    data = build_data(config("experiment=text", f"data={name}", *SPECIAL.get(name, [])))
    data.setup()
    for part in (data.splits.train, data.splits.val, data.splits.test):
        assert part.x.shape == (len(part), 32)
        assert len(part.texts) == len(part)
