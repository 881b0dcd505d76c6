"""Every encoder of conf/encoder."""

import pytest
import torch
from conftest import config, options_of, thinned
from hydra.utils import instantiate

from repel.images.encoders import TimmEncoder
from repel.images.vit import SmallViT
from repel.model.optim import parameter_groups

ENCODER_OPTIONS = {"timm": ["encoder.name=resnet10t"]}


def encoder(name: str, *overrides: str):
    return instantiate(config(f"encoder={name}", *ENCODER_OPTIONS.get(name, []), *overrides).encoder)


@pytest.mark.parametrize("name", thinned(options_of("encoder", "images"), 2))
@pytest.mark.parametrize(
    ("data", "shape"), [("fashion_mini", (1, 28, 28)), pytest.param("cifar10", (3, 32, 32), marks=pytest.mark.slow)]
)
def test_encoders_give_features(name, data, shape):
    made = encoder(name, f"data={data}")
    images = torch.randn(3, *shape)
    features = made(images)
    assert features.shape == (3, made.out_features)
    features.sum().backward()
    assert all(p.grad is not None for p in made.parameters())  # nothing of a classifier is left over


def test_the_stem_decides_the_resolution():
    image = torch.randn(2, 3, 32, 32)
    sizes = {}
    for stem in ("small", "imagenet"):
        net = encoder("resnet18", "data=cifar10", f"encoder.stem={stem}").net
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


def test_the_vision_transformer_takes_other_sizes():
    """Crops get position embeddings of their own grid, equal where it is the same; sides may differ."""
    net = SmallViT(channels=1, image_size=(8, 12), width=8, depth=1, heads=2)
    assert net(torch.randn(2, 1, 8, 12)).shape == net(torch.randn(2, 1, 12, 12)).shape == (2, 8)
    assert torch.equal(net.positions(2, 3), net.net.encoder.pos_embedding)
    with torch.no_grad():
        net.net.encoder.pos_embedding[:, 1:] = 3.0
    torch.testing.assert_close(net.positions(4, 2)[:, 1:], torch.full((1, 8, 8), 3.0))


def test_the_vision_transformer_is_torchvisions():
    from torchvision.models import VisionTransformer

    whole = VisionTransformer(8, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16)
    whole.heads = torch.nn.Identity()
    net, images = SmallViT(channels=3, image_size=8, width=8, depth=1, heads=2), torch.randn(2, 3, 8, 8)
    net.net.load_state_dict(whole.state_dict())
    torch.testing.assert_close(net(images), whole(images))


@pytest.mark.slow
def test_the_vision_transformer_is_exported_for_any_number_of_images():
    net = SmallViT(channels=1, image_size=8, width=8, depth=1, heads=2).eval()
    images = torch.randn(5, 1, 8, 8)
    exported = torch.export.export(net, (images[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    torch.testing.assert_close(exported(images), net(images))


def test_positions_of_the_vision_transformer_do_not_decay():
    net = SmallViT(channels=1, image_size=8, width=8, depth=1, heads=2)
    kept = {id(p) for p in parameter_groups([net], 0.1)[1]["params"]}
    assert {id(net.net.class_token), id(net.net.encoder.pos_embedding)} <= kept


@pytest.mark.parametrize("changed", [{"patch_size": 3}, {"heads": 3}, {"depth": 0}])
def test_sizes_of_the_vision_transformer_that_do_not_fit(changed):
    with pytest.raises(ValueError, match=rf"encoder\.{next(iter(changed))}"):
        SmallViT(channels=1, image_size=8, **changed)


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
