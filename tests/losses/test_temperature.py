"""Learned temperatures."""

import math

import pytest
import torch
from conftest import options
from loss_cases import IDS, LABELS, batch, make, node

LEARNS = [
    name
    for name in options("loss")
    if "learn_temperature" in node("loss", name) and name not in ("triplet", "margin_cosine", "cosine_regression")
]


@pytest.mark.parametrize("name", ["ntxent", "infonce", "decoupled", "dhel", "supcon", "sce", "nnclr", "siglip"])
def test_learned_temperature_begins_at_its_value_and_has_a_gradient(name):
    learned = make(name, learn_temperature=True)
    fixed = make(name, learn_temperature=False)
    torch.testing.assert_close(learned(batch(), LABELS), fixed(batch(), LABELS), rtol=1e-6, atol=1e-7)
    assert torch.autograd.gradcheck(
        lambda log_factor: torch.func.functional_call(learned, {"log_factor": log_factor}, (batch().detach(), LABELS)),
        learned.log_factor.detach().clone().requires_grad_(),
    )


@pytest.mark.parametrize("name", LEARNS)
@pytest.mark.parametrize(("log_factor", "bound"), [(7.0, 0.01), (-7.0, 1.0)])
def test_learned_temperature_stays_in_its_bounds(name, log_factor, bound):
    """In every call, also before update() has seen what the optimizer's step did."""
    loss, fixed = make(name, learn_temperature=True), make(name, learn_temperature=False, temperature=bound)
    loss.log_factor.data.fill_(log_factor)
    value = loss(batch(), LABELS, IDS)
    torch.testing.assert_close(value, fixed(batch(), LABELS, IDS), rtol=1e-5, atol=1e-6)
    assert loss.statistics()["train/temperature"].item() == pytest.approx(bound)
    (beyond,) = torch.autograd.grad(value, loss.log_factor)
    loss.update(batch(), None, IDS)
    assert loss.log_factor.item() == pytest.approx(math.log(fixed.temperature**-1 * loss.temperature))
    (at_the_bound,) = torch.autograd.grad(loss(batch(), LABELS, IDS), loss.log_factor)
    torch.testing.assert_close(beyond, at_the_bound)


def test_a_temperature_above_one_is_its_own_bound():
    loss = make("ntxent", learn_temperature=True, temperature=2.0)
    loss.log_factor.data.fill_(-1.0)
    torch.testing.assert_close(loss(batch(), LABELS, IDS), make("ntxent", temperature=2.0)(batch(), LABELS, IDS))
