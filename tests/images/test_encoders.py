"""Every encoder of conf/encoder."""

import pytest
import torch
from conftest import config, options
from hydra.utils import instantiate

from repel.images.encoders import TimmEncoder

ENCODER_OPTIONS = {"timm": ["encoder.name=resnet10t"]}


def encoder(name: str, *overrides: str):
    return instantiate(config(f"encoder={name}", *ENCODER_OPTIONS.get(name, []), *overrides).encoder)


@pytest.mark.parametrize("name", options("encoder"))
@pytest.mark.parametrize(("data", "shape"), [("fashion_mini", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_encoders_give_features(name, data, shape):
    made = encoder(name, f"data={data}")
    images = torch.randn(3, *shape)
    features = made(images)
    assert features.shape == (3, made.out_features)
    features.sum().backward()
    assert all(p.grad is not None for p in made.parameters())  # nothing of a classifier is left over


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_stem_decides_the_resolution(name):
    image = torch.randn(2, 3, 32, 32)
    sizes = {}
    for stem in ("small", "imagenet"):
        net = encoder(name, "data=cifar10", f"encoder.stem={stem}").net
        net.layer4.register_forward_hook(lambda m, i, out, stem=stem: sizes.update({stem: out.shape[-1]}))
        net(image)
    assert sizes == {"small": 4, "imagenet": 1}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["encoder=resnet18", "encoder.stem=big"], "encoder.stem"),
        (["encoder=resnet18", "data=cifar10", "encoder.weights=DEFAULT"], "encoder.stem=imagenet"),
        (["encoder=resnet18", "encoder.stem=imagenet", "encoder.weights=DEFAULT"], "data.channels=3"),
        (["encoder=resnet18", "data=cifar10", "encoder.stem=imagenet", "encoder.weights=BEST"], "IMAGENET1K_V1"),
        (["encoder=timm", "encoder.name=resnet10x"], "encoder.name"),
        (
            ["encoder=timm", "encoder.name=timm/resnet10x.a1"],
            "encoder.name=timm/resnet10x.a1: .* did you mean resnet10t",
        ),
        (["encoder=timm", "encoder.name=zzzzzzzz"], r"no such model; timm.list_models\(\) lists them"),
        (["encoder=timm", "encoder.name=resnet10t.C3"], "resnet10t.C3: .* there are: resnet10t.c3_in1k"),
        (["encoder=timm", "encoder.name=vit_tiny_patch16_224"], "data.image_size"),
        (["encoder=small", "encoder.width=0"], "encoder.width"),
    ],
    ids=lambda p: p[-1] if isinstance(p, list) else "",
)
def test_impossible_encoders_are_explained(overrides, words):
    with pytest.raises(Exception, match=words) as caught:
        instantiate(config(*overrides).encoder)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("name", ["timm/resnet10t.c3_in1k", "hf-hub:timm/resnet10t", "hf_hub:timm/resnet10t",
                                  "https://huggingface.co/timm/resnet10t.c3_in1k"])  # fmt: skip
def test_a_models_name_as_its_page_has_it(name, monkeypatch):
    pytest.importorskip("timm")
    made = []
    monkeypatch.setattr("timm.create_model", lambda name, **options: made.append(name) or torch.nn.Flatten())
    TimmEncoder(name, 3, 8, False, {})
    assert made == [name.rpartition("/")[2]]


def test_weights_without_network_say_what_to_do(monkeypatch, tmp_path):
    from urllib.error import URLError

    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(Exception, match=r"encoder\.weights=null"):
        encoder("resnet18", "data=cifar10", "encoder.stem=imagenet", "encoder.weights=DEFAULT")
