"""Every option of every group, by globbing conf: encoders, heads, optimisers, schedules, trainers, experiments."""

import itertools
import math
import re

import pytest
import torch
from conftest import CONF, config, options
from hydra.utils import instantiate
from omegaconf import OmegaConf

from repel.model.anneal import Anneal
from repel.model.optim import constant, cosine, parameter_groups

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


@pytest.mark.parametrize("name", options("head"))
def test_heads_give_embeddings(name):
    head = instantiate(config(f"head={name}", "head.out_features=9").head, in_features=12)
    assert head(torch.randn(4, 12)).shape == (4, 9)


@pytest.mark.parametrize("name", options("predictor"))
def test_predictors_map_embeddings_to_embeddings(name):
    cfg = config(f"predictor={name}").predictor
    if cfg:
        assert instantiate(cfg, in_features=6, out_features=6)(torch.randn(4, 6)).shape == (4, 6)


@pytest.mark.parametrize("name", options("target"))
def test_targets_make_embeddings_without_gradient_and_follow(name):
    net, head = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4)), torch.nn.Linear(4, 3)
    cfg = config(f"target={name}").target
    if not cfg:
        return
    target, x = instantiate(cfg, net, head), torch.randn(8, 5)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with torch.no_grad():
        for parameter in [*net.parameters(), *head.parameters()]:
            parameter += 1.0
    net(x)  # batch norm counts
    assert not target(x).requires_grad
    target.follow(net, head)
    after, new = target.state_dict(), {"encoder": net, "head": head}
    for key, value in before.items():
        part, name = key.split(".", 1)
        theirs = new[part].state_dict()[name]
        moved = name in dict(new[part].named_parameters())
        torch.testing.assert_close(after[key], value * cfg.momentum + theirs * (1 - cfg.momentum) if moved else theirs)
    assert after["encoder.1.num_batches_tracked"].dtype == torch.int64


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
        (["encoder=timm", "encoder.name=vit_tiny_patch16_224"], "data.image_size"),
        (["encoder=small", "encoder.width=0"], "encoder.width"),
    ],
    ids=lambda p: p[-1] if isinstance(p, list) else "",
)
def test_impossible_encoders_are_explained(overrides, words):
    with pytest.raises(Exception, match=words) as caught:
        instantiate(config(*overrides).encoder)
    assert isinstance(caught.value.__cause__, ValueError)


def test_weights_without_network_say_what_to_do(monkeypatch, tmp_path):
    from urllib.error import URLError

    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(Exception, match=r"encoder\.weights=null"):
        encoder("resnet18", "data=cifar10", "encoder.stem=imagenet", "encoder.weights=DEFAULT")


@pytest.mark.parametrize("name", options("optimizer"))
def test_optimizers_decay_weights_only(name):
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    cfg = config(f"optimizer={name}", "optimizer.weight_decay=0.1", "optimizer.lr=0.5").optimizer
    optimizer = instantiate(cfg)(parameter_groups([net], cfg.weight_decay))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {n: decay[id(p)] for n, p in net.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip
    before = net[0].weight.detach().clone()
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, net[0].weight)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_parameter_groups_leave_out_what_is_frozen_and_empty():
    layer = torch.nn.Linear(2, 2, bias=False)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups([layer, frozen], 0.1)] == [1]


@pytest.mark.parametrize("name", options("schedule"))
def test_schedules_warm_up_and_stay_in_range(name):
    factor = instantiate(config(f"schedule={name}", "schedule.warmup_epochs=2", "trainer.max_epochs=10").schedule)
    values = [factor(e / 10) for e in range(101)]
    assert all(0 <= v <= 1 for v in values)
    assert values[10] == pytest.approx(0.5)
    assert values[20] == pytest.approx(1)


def test_cosine():
    assert cosine(0, 0, 10, 0) == 1
    assert cosine(6, 2, 10, 0) == pytest.approx(0.5)
    assert cosine(10, 2, 10, 0.1) == pytest.approx(0.1)
    assert cosine(12, 2, 10, 0.1) == pytest.approx(0.1)
    assert constant(9, 0) == 1


def test_annealing_is_a_function_of_time():
    anneal = Anneal({"negatives.beta": [0.0, 2.0], "negatives.k": [9, 1]}, epochs=4, shape="linear")
    assert anneal.at(0) == {"negatives.beta": 0.0, "negatives.k": 9}
    assert anneal.at(1) == {"negatives.beta": 0.5, "negatives.k": 7}
    assert anneal.at(9) == {"negatives.beta": 2.0, "negatives.k": 1}
    assert isinstance(anneal.at(1.3)["negatives.k"], int)
    half = Anneal({"x.y": [0.0, 2.0]}, epochs=4, shape="cosine")
    assert half.at(1)["x.y"] == pytest.approx(1 - math.cos(math.pi / 4))
    with pytest.raises(ValueError, match="no number"):
        half.apply({"x": torch.nn.Linear(1, 1)}, 0.0)
    with pytest.raises(ValueError, match=r"anneal\.epochs"):
        Anneal({}, epochs=0, shape="linear")


@pytest.mark.parametrize(
    ("typed", "key"),
    [("negatives=tilt", "negatives.beta"), ("negatives=hcl", "negatives.beta"), ("negatives=topk", "negatives.k"),
     ("negatives=semi_hard", "negatives.margin"), ("negatives=annulus", "negatives.high"),
     ("loss=triplet", "loss.margin"), ("target=ema", "target.momentum"),
     ("negatives=chain", "negatives.strategies.1.beta"),
     ("negatives=debiased", "negatives.tau_plus"), ("loss=ntxent", "loss.temperature")],
)  # fmt: skip
def test_these_can_be_annealed(typed, key):
    """And what is set is what the loss then computes with."""
    from repel.engine.build import build_module

    cfg = config(typed)
    now = OmegaConf.select(cfg, key)
    later = 3 if isinstance(now, int) else 0.9 * now
    module = build_module(config(typed, f"anneal.values={{{key}:[{now},{later}]}}", "anneal.epochs=2"))
    parts = {"loss": module.loss, "negatives": module.loss.negatives, "target": module.target}
    z, labels = torch.randn(2, 32, 128), torch.arange(32)
    values = []
    for epoch in (0.0, 2.0):
        module.anneal.apply(parts, epoch)
        values.append(module.loss(z, labels, labels))
    assert torch.equal(*values) is (key == "target.momentum")
    changed = module.target.momentum if key == "target.momentum" else None
    assert changed is None or changed == pytest.approx(0.9 * now)


@pytest.mark.parametrize("name", options("experiment"))
def test_experiments_compose_and_build(name):
    from repel.engine.build import build_module

    changes = ["encoder.weights=null"] if name == "founding" else []  # the weights would be downloaded
    cfg = config(f"experiment={name}", *changes)
    module = build_module(cfg)
    images = torch.randn(2, cfg.data.channels, cfg.data.image_size, cfg.data.image_size)
    assert module.head(module(images)).shape == (2, cfg.head.out_features)


@pytest.mark.parametrize("name", options("data_views"))
def test_views_made_for_a_dataset_are_used_with_it_alone(name):
    data = next(d for d in sorted(options("data"), key=len, reverse=True) if name.startswith(d))
    views = name.removeprefix(f"{data}_")
    special, usual = config(f"data={data}", f"views={views}"), config("data=cifar10", f"views={views}")
    assert special.views.augmentation.gamma == 3.0
    assert usual.views.augmentation.gamma == 0.0
    changed = config(f"data={data}", f"views={views}", "views.augmentation.gamma=1.0")
    assert changed.views.augmentation.gamma == 1.0  # what is typed wins


@pytest.mark.parametrize("group", sorted(p.name for p in CONF.iterdir() if p.is_dir()))
def test_every_option_of_every_group_is_tested(group):
    """A group that no test globs over would rot: name it here with the test that does."""
    tested = {
        "encoder": test_encoders_give_features,
        "head": test_heads_give_embeddings,
        "optimizer": test_optimizers_decay_weights_only,
        "schedule": test_schedules_warm_up_and_stay_in_range,
        "experiment": test_experiments_compose_and_build,
        "predictor": test_predictors_map_embeddings_to_embeddings,
        "target": test_targets_make_embeddings_without_gradient_and_follow,
    }
    elsewhere = {"views": "test_views", "loss": "test_losses", "negatives": "test_losses", "data": "test_data"}
    elsewhere |= {
        "data_views": "test_parts",
        "sweep": "test_sweeps",
        "evaluators": "test_protocol",
        "logger": "test_run_folder",
    }
    one_option = {"callbacks", "trainer"}
    assert group in tested or group in elsewhere or group in one_option or group == "hydra"
    if group in one_option:
        assert options(group) == ["default"]  # test_run_folder trains with it


def test_every_target_exists():
    """Read as text: composing every option takes seconds."""
    from hydra.utils import get_object

    from repel.engine.configs import check_targets

    texts = [path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml")]
    targets = {name for text in texts for name in re.findall(r"_target_: *([\w.]+)", text)}
    assert len(targets) > 60
    for target in targets:
        check_targets({"_target_": target})
        assert callable(get_object(target))


def test_defaults_live_in_conf_alone():
    """Parts that configs build have no default arguments, so that conf is the one place to look."""
    import inspect

    from hydra.utils import get_object

    from repel.engine.configs import flatten

    groups = ("loss", "negatives", "views", "head", "predictor", "target", "schedule")
    configs = [config(), *(config(f"{group}={name}") for group in groups for name in options(group))]
    for key, target in itertools.chain(*(flatten(c).items() for c in configs)):
        if key.endswith("_target_") and target.startswith("repel.") and "logger" not in key:
            made = inspect.signature(get_object(target)).parameters.values()
            assert all(p.default is inspect.Parameter.empty for p in made), target
