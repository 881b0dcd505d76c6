"""Losses and strategies in anyone's training loop: a few lines of Python, with the defaults that conf/ has."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import options
from golden_cases import CASES, GOLDEN, Z, assert_golden
from hydra.utils import get_object
from loss_cases import PAIRS, ROWWISE, batch, make, node
from torch.nn import Module

import repel.losses
import repel.negatives
from repel.losses import Decoupled, InfoNCE, NTXent, SigLIP, SupCon
from repel.negatives import HCL, Debiased

WITHOUT_DEFAULT = {"strategies", "members", "seed", "dim"}  # of a sum; what the rest of a run decides
PARTS = [("loss", name) for name in options("loss")] + [("negatives", name) for name in options("negatives")]


def same(default, configured) -> bool:
    return type(default) is type(configured) and default == configured


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_defaults_are_those_of_conf(group, name):
    """Neither can drift: what conf/ sets is the default, and there is no default that conf/ does not set."""
    configured = dict(node(group, name))
    made = get_object(configured.pop("_target_"))
    parameters = inspect.signature(made).parameters if made.__init__ is not Module.__init__ else {}
    configured = {key: value for key, value in configured.items() if key not in ("negatives", "queue")}
    assert configured.keys() | {"negatives", "queue"} >= parameters.keys()
    for key, value in configured.items():
        default = parameters[key].default
        if key in WITHOUT_DEFAULT and default is inspect.Parameter.empty:
            continue
        if (group, name, key) == ("negatives", "hardest", "k"):
            assert value == 1
            continue
        assert same(default, value), f"{key} is {default!r} in Python and {value!r} in conf/{group}/{name}.yaml"
    for key in ("negatives", "queue") if (name, "uniform") in ROWWISE and group == "loss" else ():
        assert parameters[key].default is None  # uniform negatives and no queue, as in conf/train.yaml


@pytest.mark.parametrize("pair", [p for p in PAIRS if p[1] == "uniform" and p[0] != "joint"], ids=lambda pair: pair[0])
def test_a_loss_without_arguments_is_that_of_conf(pair):
    configured = make(pair[0])
    needed = {"dim": 5} if "dim" in inspect.signature(type(configured)).parameters else {}
    torch.manual_seed(0)
    made = type(configured)(**needed).double()
    learned = {name: value for name, value in configured.state_dict().items() if not name.startswith("queue.")}
    made.load_state_dict(learned, strict=False)
    z, labels = batch().detach(), torch.tensor([0, 0, 1, 1, 2, 1])
    torch.testing.assert_close(made(z, labels=labels), configured(z, labels=labels), rtol=0, atol=0)


def gradient(loss, **arguments):
    z = Z.clone().requires_grad_()
    value = loss.double()(z, **arguments)
    value.backward()
    return value.detach(), z.grad


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ntxent_t0.5", lambda: NTXent(temperature=0.5)),
        ("decoupled_t0.5", lambda: Decoupled(temperature=0.5)),
        ("supcon_t0.5", lambda: SupCon(temperature=0.5)),
    ],
)
def test_golden_values_in_three_lines(name, loss):
    labels = {"labels": torch.tensor(GOLDEN["labels"])} if "supcon" in name else {}
    assert_golden(name, *gradient(loss(), **labels))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("hcl_")])
def test_golden_values_of_hcl_and_debiased_in_three_lines(name):
    params = CASES[name]["params"]
    strategies = [HCL(beta=params["beta"], tau_plus=params["tau_plus"])]
    if params["beta"] == 0:
        strategies.append(Debiased(tau_plus=params["tau_plus"]))
    for strategy in strategies:
        assert_golden(name, *gradient(NTXent(temperature=params["temperature"], negatives=strategy)))


def test_siglip_in_three_lines():
    """Zhai et al. 2023, arXiv:2303.15343, eq. 1: all pairs of two views, each -log sigmoid(+-(s / t + b))."""
    loss, cosine = SigLIP(temperature=0.1, bias=-10.0).double(), F.normalize(Z[0], dim=-1) @ F.normalize(Z[1], dim=-1).T
    signs = 2 * torch.eye(len(cosine), dtype=torch.float64) - 1
    expected = -F.logsigmoid(signs * (cosine / 0.1 - 10)).sum() / len(cosine)
    torch.testing.assert_close(loss(Z), expected, rtol=1e-12, atol=0)


def test_public_names_are_there_and_documented():
    for package in (repel.losses, repel.negatives):
        for name in package.__all__:
            part = getattr(package, name)
            assert inspect.getdoc(part), name
            assert part.__module__.startswith("repel."), name
    for package, group in ((repel.losses, "loss"), (repel.negatives, "negatives")):
        files = {getattr(package, name).__module__ for name in package.__all__}
        for target in (node(group, name)["_target_"] for name in options(group)):
            module, _, name = target.rpartition(".")
            assert name in package.__all__ or module not in files, name  # one in a file of its own needs no list


def test_from_a_batch_to_the_value_of_ntxent_in_few_calls():
    """A reader opens at most 4 files and follows at most 12 calls."""
    loss, z, calls = NTXent(temperature=0.5), torch.randn(2, 6, 5), []
    package = str(Path(repel.losses.__file__).parents[1])

    def profile(frame, event, _):
        if (
            event == "call"
            and frame.f_code.co_filename.startswith(package)
            and not frame.f_code.co_name.startswith("<")
        ):
            calls.append((Path(frame.f_code.co_filename).name, frame.f_code.co_name))

    sys.setprofile(profile)
    try:
        loss(z)
    finally:
        sys.setprofile(None)
    assert ("ratio.py", "link") in calls
    assert len(calls) <= 12, calls
    assert len({file for file, _ in calls}) <= 4, calls


def test_siglip_and_infonce_take_a_training_step():
    for loss in (SigLIP(), InfoNCE(temperature=0.1, negatives=HCL(beta=1.0, tau_plus=0.1))):
        z = torch.randn(2, 8, 4, requires_grad=True)
        loss(z).backward()
        assert torch.isfinite(z.grad).all()
        assert z.grad.abs().sum() > 0
