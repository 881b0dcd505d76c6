"""Every head, predictor, target, optimizer and schedule of conf/; annealing."""

import math
from functools import partial

import pytest
import torch
from conftest import config, options, thinned
from hydra.utils import instantiate
from omegaconf import OmegaConf

from repel.engine.build import build_module
from repel.model import heads
from repel.model.anneal import Anneal
from repel.model.lars import LARS
from repel.model.optim import constant, cosine, fill_length, parameter_groups, scaled_rate


@pytest.mark.parametrize("name", options("head"))
def test_heads_give_embeddings(name):
    width = 12 if name == "identity" else 9
    head = instantiate(config(f"head={name}", f"head.out_features={width}").head, in_features=12)
    assert head(torch.randn(4, 12)).shape == (4, width)


def test_no_head_has_the_encoders_width():
    with pytest.raises(ValueError, match=r"head=identity needs head.out_features=12, the encoder's, got 9"):
        heads.identity(in_features=12, out_features=9)


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
        if name in dict(new[part].named_parameters()):
            torch.testing.assert_close(after[key], value * cfg.momentum + theirs * (1 - cfg.momentum))
    own = torch.nn.BatchNorm1d(4)  # running statistics are of the target's own activations, see test_ema.py
    own(x @ before["encoder.0.weight"].T + before["encoder.0.bias"])
    torch.testing.assert_close(after["encoder.1.running_mean"], own.running_mean)
    assert int(after["encoder.1.num_batches_tracked"]) == 1
    assert after["encoder.1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("name", thinned(options("optimizer"), 3))
def test_optimizers_decay_weights_only(name):
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    cfg = config(f"optimizer={name}", "optimizer.weight_decay=0.1", "optimizer.lr=0.5", "encoder.width=2")
    optimizer = build_module(cfg).optimizer(parameter_groups([net], cfg.optimizer.weight_decay))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {n: decay[id(p)] for n, p in net.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip
    before = net[0].weight.detach().clone()
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, net[0].weight)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_lars_is_its_equation():
    """You et al. 2017, arXiv:1708.03888, algorithm 1; what has one dimension, or is 0, is SGD's. The rate changes."""
    net = torch.nn.Linear(3, 2).double()
    zero = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.double))
    expected = [p.detach().clone() for p in (*net.parameters(), zero)]
    velocities = [torch.zeros_like(p) for p in expected]
    optimizer = LARS(parameter_groups([net, torch.nn.ParameterList([zero])], 0.1), lr=0.5, trust=0.01)
    for rate in (0.5, 0.2, 0.1):
        optimizer.zero_grad()
        (net(torch.randn(5, 3, dtype=torch.double)).square().sum() + (zero * torch.arange(2.0)).sum()).backward()
        for number, parameter in enumerate((*net.parameters(), zero)):
            w, g, decay = expected[number], parameter.grad, 0.0 if parameter.ndim == 1 else 0.1
            local = 1.0 if parameter.ndim == 1 or not w.norm() else 0.01 * w.norm() / (g.norm() + decay * w.norm())
            velocities[number] = 0.9 * velocities[number] + rate * local * (g + decay * w)
            expected[number] = w - velocities[number]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    for parameter, value in zip((*net.parameters(), zero), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-12, atol=1e-12)


def test_lars_is_timms_while_the_rate_stays():
    """Where timm's adapts at all: a group with weight decay."""
    timm = pytest.importorskip("timm.optim")
    nets = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    nets[1].load_state_dict(nets[0].state_dict())
    ours = LARS(parameter_groups(nets[:1], 0.1), lr=0.5)
    theirs = timm.Lars(parameter_groups(nets[1:], 0.1), lr=0.5, momentum=0.9, eps=0.0)
    for _ in range(3):
        x = torch.randn(5, 3)
        for net, optimizer in zip(nets, (ours, theirs), strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("changed", [{"lr": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"trust": 0.0}])
def test_lars_says_which_number_it_does_not_take(changed):
    with pytest.raises(ValueError, match=rf"optimizer\.{next(iter(changed))} must be .* got"):
        LARS([torch.zeros(1)], **{"lr": 0.1} | changed)


@pytest.mark.parametrize("name", thinned(options("optimizer"), 3))
def test_the_learning_rate_is_scaled_with_the_global_batch(name):
    rates = []
    for rule in ("off", "linear", "sqrt"):
        module = build_module(config(f"optimizer={name}", f"optimizer.scale_lr={rule}", "data.batch_size=1024",
                                     "optimizer.lr=0.5", "encoder.width=2"))  # fmt: skip
        rates.append(module.optimizer.keywords["lr"])
    assert rates == [0.5, 2.0, 1.0]
    earlier = config(f"optimizer={name}", "encoder.width=2")
    del earlier.optimizer.scale_lr  # of a run from before there was one
    assert build_module(earlier).optimizer.keywords["lr"] == earlier.optimizer.lr


def test_a_rate_cannot_be_scaled_otherwise():
    with pytest.raises(ValueError, match=r"optimizer\.scale_lr must be off, linear, sqrt, got 'cubic'"):
        scaled_rate(0.1, "cubic", 128)
    cfg = config("optimizer.scale_lr=linear")
    del cfg.optimizer.lr
    with pytest.raises(ValueError, match=r"optimizer\.scale_lr scales optimizer\.lr"):
        build_module(cfg)


def test_parameter_groups_leave_out_what_is_frozen_and_empty():
    layer = torch.nn.Linear(2, 2, bias=False)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups([layer, frozen], 0.1)] == [1]


def test_what_a_module_names_does_not_decay():
    """As the position embeddings of timm's vision transformers; also from within another module."""
    net = torch.nn.Sequential(Positions(), torch.nn.Linear(4, 4, bias=False))
    decays, others = parameter_groups([net], 0.1)
    assert [id(p) for p in decays["params"]] == [id(net[1].weight)]
    assert [id(p) for p in others["params"]] == [id(net[0].table)]
    assert [len(group["params"]) for group in parameter_groups([net], 0.1, named=False)] == [2]


class Positions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(1, 3, 4))

    def no_weight_decay(self):
        return {"table", "there_is_none"}


@pytest.mark.parametrize("name", options("schedule"))
def test_schedules_warm_up_and_stay_in_range(name):
    cfg = config(f"schedule={name}", "schedule.warmup_epochs=2", "~schedule.on_extend")
    factor = fill_length(instantiate(cfg.schedule), 10)
    values = [factor(e / 10) for e in range(101)]
    assert all(0 <= v <= 1 for v in values)
    assert values[10] == pytest.approx(0.5)
    assert values[20] == pytest.approx(1)
    assert values[100] == pytest.approx(0 if name == "cosine" else 1)


def test_cosine():
    assert cosine(0, 0, 10, 0) == 1
    assert cosine(6, 2, 10, 0) == pytest.approx(0.5)
    assert cosine(10, 2, 10, 0.1) == pytest.approx(0.1)
    assert cosine(12, 2, 10, 0.1) == pytest.approx(0.1)
    assert constant(9, 0) == 1


def test_the_length_of_training_is_for_a_schedule_that_leaves_its_end_open():
    assert fill_length(partial(cosine, warmup_epochs=0, max_epochs=None, final=0), 4)(2) == pytest.approx(0.5)
    assert fill_length(partial(cosine, warmup_epochs=0, max_epochs=8, final=0), 4)(4) == pytest.approx(0.5)
    assert fill_length(partial(constant, warmup_epochs=0), 4)(9) == 1


def test_annealing_is_a_function_of_time():
    anneal = Anneal({"negatives.beta": [0.0, 2.0], "negatives.k": [9, 1]}, epochs=4, shape="linear")
    assert anneal.at(0, 100) == {"negatives.beta": 0.0, "negatives.k": 9}
    assert anneal.at(1, 100) == {"negatives.beta": 0.5, "negatives.k": 7}
    assert anneal.at(9, 100) == {"negatives.beta": 2.0, "negatives.k": 1}
    assert isinstance(anneal.at(1.3, 100)["negatives.k"], int)
    half = Anneal({"x.y": [0.0, 2.0]}, epochs=None, shape="cosine")
    assert half.at(1, length=4)["x.y"] == pytest.approx(1 - math.cos(math.pi / 4))
    assert half.at(0, length=math.inf)["x.y"] == 0.0
    with pytest.raises(ValueError, match="no number"):
        half.apply({"x": torch.nn.Linear(1, 1)}, 0.0, 4)
    with pytest.raises(ValueError, match=r"anneal\.epochs"):
        Anneal({}, epochs=0, shape="linear")


def test_the_momentum_of_byol_rises_to_one_by_a_cosine():
    """tau = 1 - (1 - tau_0) (cos(pi k / K) + 1) / 2: Grill et al. 2020, arXiv:2006.07733, sec. 3.2."""
    anneal = instantiate(config("experiment=byol", "target.momentum=0.996").anneal)
    for step in range(11):
        tau = 1 - (1 - 0.996) * (math.cos(math.pi * step / 10) + 1) / 2
        assert anneal.at(step / 2, length=5.0)["target.momentum"] == pytest.approx(tau)


@pytest.mark.parametrize(
    ("typed", "key"),
    [("target=ema", "target.momentum"), ("negatives=chain", "negatives.strategies.1.beta"),
     ("loss=ntxent", "loss.temperature"),
     *(pytest.param(*case, marks=pytest.mark.slow) for case in (
         ("negatives=tilt", "negatives.beta"), ("negatives=hcl", "negatives.beta"), ("negatives=topk", "negatives.k"),
         ("negatives=semi_hard", "negatives.margin"), ("negatives=annulus", "negatives.high"),
         ("loss=triplet", "loss.margin"), ("negatives=debiased", "negatives.tau_plus")))],
)  # fmt: skip
def test_these_can_be_annealed(typed, key):
    """And what is set is what the loss then computes with."""
    cfg = config(typed)
    now = OmegaConf.select(cfg, key)
    later = 3 if isinstance(now, int) else 0.9 * now
    module = build_module(config(typed, f"anneal.values={{{key}:[{now},{later}]}}", "anneal.epochs=2"))
    parts = {"loss": module.loss, "negatives": module.loss.negatives, "target": module.target}
    z, labels = torch.randn(2, 32, 128), torch.arange(32)
    values = []
    for epoch in (0.0, 2.0):
        module.anneal.apply(parts, epoch, 9.0)
        values.append(module.loss(z, labels, labels))
    assert torch.equal(*values) is (key == "target.momentum")
    changed = module.target.momentum if key == "target.momentum" else None
    assert changed is None or changed == pytest.approx(0.9 * now)


def test_no_head_finds_the_width_of_a_model_in_a_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 24}', encoding="utf-8")
    typed = ["experiment=text", "encoder=hf"]
    assert config(*typed, f"encoder.name={tmp_path}").head.out_features == 24
    assert config("experiment=text", "encoder.width=16").head.out_features == 16
    with pytest.raises(Exception, match=r"type head.out_features=N, or head=linear"):
        config(*typed, "encoder.name=elsewhere")
    assert config(*typed, "encoder.name=elsewhere", "head.out_features=8").head.out_features == 8
