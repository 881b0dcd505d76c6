"""Options of text views: defaults as in conf/, and a mistake is one line that names the key."""

import inspect

import pytest
import torch
from conftest import CONF
from omegaconf import OmegaConf

from repel.text.texts import TokenBatch
from repel.text.views import TextViews

TEXTS = TokenBatch(torch.ones(2, 9, dtype=torch.int32), None, None, mask=2)


def test_defaults_are_those_of_conf():
    conf = OmegaConf.to_container(OmegaConf.load(CONF / "views/_text.yaml"), resolve=False)
    parameters = inspect.signature(TextViews).parameters
    assert set(parameters) == set(conf) - {"_target_"}
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            assert conf[name] == (list(default) if isinstance(default, tuple) else default), name


@pytest.mark.parametrize(("changes", "message"), [
    ({"n": 1}, "views.n=2, got 1"),
    ({"max_tokens": 0}, "views.max_tokens must be at least 1, got 0"),
    ({"crop": 0.0}, "views.crop must be a share above 0 and at most 1, or two such as .*, got 0.0"),
    ({"crop": [0.9, 0.5]}, r"views.crop .*, got \[0.9, 0.5\]"),
    ({"crop": [0.5, 0.7, 0.9]}, "views.crop"),
    ({"crop": True}, "views.crop .*, got True"),
    ({"crop": "half"}, "views.crop .*, got half"),
    ({"delete": 1.0}, "views.delete must be a share from 0 to below 1"),
    ({"mask": [-0.1, 0.5]}, "views.mask must be a share from 0 to below 1"),
    ({"shuffle": 2}, "views.shuffle must be a share of the texts, from 0 to 1, got 2"),
    ({"shuffle_window": 0}, "views.shuffle_window must be a whole number of places or null, got 0"),
    ({"per_view": [{}]}, "views.per_view has 1 entries for views.n=2"),
    ({"per_view": [{}, {"n": 3}]}, "views.per_view changes crop, delete, shuffle, mask, shuffle_window, not n"),
])  # fmt: skip
def test_mistakes_in_options(changes, message):
    with pytest.raises(ValueError, match=message):
        TextViews(**{"n": 2, "max_tokens": 9, **changes})


@pytest.mark.parametrize(("changes", "x", "message"), [
    ({"pair": True}, TEXTS, "views.pair=true needs data.positive=COLUMN"),
    ({"mask": 0.5}, TEXTS._replace(mask=-1), "views.mask needs a tokenizer with a mask token"),
    ({"max_tokens": 4}, TEXTS, "views.max_tokens=4 is less than the 9 tokens of a text"),
])  # fmt: skip
def test_data_that_does_not_fit(changes, x, message):
    with pytest.raises(ValueError, match=message):
        TextViews(**{"n": 2, "max_tokens": 9, **changes})(x, torch.Generator())
