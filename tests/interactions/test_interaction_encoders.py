"""Every encoder of users and items in conf/encoder."""

import inspect

import pytest
import tiny_graphs
import torch
from conftest import config, options_of
from hydra.utils import get_class, instantiate
from torch import nn

from repel.data.samples import give_info

NAMES = options_of("encoder", "interactions")


def chosen(name: str):
    return config("experiment=ssm", f"encoder={name}").encoder


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    encoder = instantiate(chosen(name), width=4)
    give_info(encoder, tiny_graphs.info())
    return encoder


@pytest.mark.parametrize("name", NAMES)
def test_each_node_has_features_that_depend_on_no_other_of_the_batch(name):
    encoder = build(name).eval()
    nodes = tiny_graphs.nodes(0)
    h = encoder(nodes)
    assert h.shape == (len(nodes), encoder.out_features) == (len(nodes), 4)
    assert torch.equal(h[0], h[1]), "the same node"
    torch.testing.assert_close(encoder(nodes.flip(0)[:5]), h.flip(0)[:5])
    (h**2).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_makes_the_same_encoder_and_a_checkpoint_needs_no_data(name):
    one, two = build(name), build(name)
    torch.manual_seed(1)
    three = instantiate(chosen(name), width=4)
    three.load_state_dict(one.state_dict())
    nodes = tiny_graphs.nodes(0)
    assert torch.equal(one.eval()(nodes), two.eval()(nodes))
    assert torch.equal(one(nodes), three.eval()(nodes))


@pytest.mark.parametrize("name", NAMES)
def test_options_have_the_defaults_that_conf_has(name):
    node = dict(chosen(name))
    node |= {"item_text": None} if "item_text" in node else {}  # one of texts, see tests/text/test_text_encoders.py
    defaults = inspect.signature(get_class(node.pop("_target_"))).parameters
    own = {key: defaults[key].default for key in node}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()} == node
