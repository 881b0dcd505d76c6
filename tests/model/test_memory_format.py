"""channels_last: the same values and gradients, handed over in that order; refused where there is nothing to order."""

import copy

import pytest
import torch
from conftest import TINY, config
from text_runs import SMALL as TEXTS

from repel.engine.build import build_module
from repel.images.encoders import SmallResNet
from repel.images.vit import SmallViT
from repel.model.memory_format import use_channels_last

LAST = {"memory_format": torch.channels_last}


class Strided(torch.nn.Module):
    """Convolutions whose weights are in the usual order."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                                       torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten())  # fmt: skip

    def forward(self, images):
        return self.net(images)


@pytest.mark.parametrize("make", [Strided, lambda: SmallResNet(3, 8), lambda: SmallViT(3, 12, 4, 8, 1, 2, 2.0)])
def test_value_and_gradient_are_those_of_the_usual_order(make):
    usual = make().double()
    ordered = copy.deepcopy(usual)
    use_channels_last(ordered)
    seen = []
    first = next(part for part in ordered.modules() if isinstance(part, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].is_contiguous(**LAST)))
    assert first.weight.is_contiguous(**LAST)
    images = torch.randn(6, 3, 12, 12, dtype=torch.double)
    found = []
    for net in (usual, ordered):
        h = net(images)
        found.append([h, *torch.autograd.grad(h.square().sum(), list(net.parameters()))])
    assert seen == [True]
    assert [*usual.state_dict()] == [*ordered.state_dict()]
    usual.load_state_dict(ordered.state_dict())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_config_asks_for_it_and_the_target_has_it_too():
    typed = [*TINY, "encoder.width=8", "target=ema"]
    module, plain = build_module(config(*typed, "channels_last=true")), build_module(config(*typed))
    assert all(part.stem[0].weight.is_contiguous(**LAST) for part in (module.encoder, module.target.encoder))
    assert len(module.encoder._forward_pre_hooks) == len(module.target.encoder._forward_pre_hooks) == 1
    assert not plain.encoder._forward_pre_hooks
    plain.load_state_dict(module.state_dict())
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(module.eval()(images), plain.eval()(images))


@pytest.mark.parametrize(("typed", "words"), [
    (TINY, "a convolution of this encoder has 4 channels"),
    ([*TEXTS, "encoder=bag"], "BagOfTokens has no 2-D convolution"),
    (["experiment=lightgcn"], "LightGCN has no 2-D convolution"),
])  # fmt: skip
def test_elsewhere_it_is_refused_in_a_line(typed, words):
    with pytest.raises(ValueError, match=rf"channels_last=true: {words}.*channels_last=false") as caught:
        build_module(config(*typed, "channels_last=true"))
    assert "\n" not in str(caught.value)
