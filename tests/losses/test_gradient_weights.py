"""How hard a loss pushes each negative; looking changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from loss_cases import IDS, LABELS, NO_NEGATIVES, batch, make, remember, setting, with_and_without_memory

from repel.evaluation import geometry
from repel.losses.gradient_weights import negative_weights
from repel.negatives import hard, mixed, soft
from repel.negatives.uniform import Uniform


def look(loss, z, anchors: int = 100, target=None):
    return negative_weights(loss, z, z if target is None else target, LABELS, IDS, anchors)


def test_weights_of_infonce_are_its_softmax():
    z, t = batch(), 0.3
    seen = look(make("ntxent", temperature=t), z)
    s = (flat := F.normalize(z, dim=-1).flatten(0, 1)) @ flat.T
    p = (s / t).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf).softmax(1)
    torch.testing.assert_close(seen.weight, p.masked_fill(~seen.is_negative, 0))
    assert seen.is_negative.sum(1).tolist() == [10] * 12
    torch.testing.assert_close(seen.negative, s.detach())
    torch.testing.assert_close(seen.positive[:, 0], s.detach().diagonal(6).repeat(2))
    assert seen.temperature.item() == pytest.approx(t)


@pytest.mark.parametrize(("strategy", "number"), [
    (Uniform(), 10), (hard.TopK(1), 1), (hard.TopK(3), 3), (soft.Tilt(5.0, "max", True), 10), (soft.Debiased(0.0), 10),
])  # fmt: skip
def test_all_negatives_alike_act_as_many_as_are_kept(strategy, number):
    """A simplex: every pair of samples has the same cosine, so nothing but the strategy's choice tells them apart."""
    z = torch.eye(6, dtype=torch.float64).expand(2, -1, -1)
    share = geometry.shares(look(make("ntxent", strategy), z).weight)
    assert geometry.effective_number(share).tolist() == pytest.approx([number] * 12)


def test_a_tilt_acts_as_a_lower_temperature_for_negatives():
    """Detached, the softmax at t / (1 + beta); see Tilt."""
    z, t, beta = batch(), 0.5, 1.5
    tilted = look(make("ntxent", soft.Tilt(beta, "max", True), temperature=t), z)
    cold = look(make("ntxent", temperature=t / (1 + beta)), z)
    torch.testing.assert_close(geometry.shares(tilted.weight), geometry.shares(cold.weight))


def test_synthetic_negatives_are_weighed_too():
    strategy = mixed.Mixed(4, 3, 2, seed=1)
    z = batch()
    seen = look(make("ntxent", strategy), z)
    assert seen.weight.shape == (12, 12 + 5)
    assert (seen.weight[:, 12:] > 0).all()
    assert geometry.shares(seen.weight).sum(1).tolist() == pytest.approx([1] * 12)


def test_anchors_at_the_floor_push_nothing():
    z = batch().detach()[:1].expand(2, -1, -1)
    assert not look(make("ntxent", soft.Debiased(0.1), temperature=0.05), z).weight.any()


def test_supervised_positives_are_no_negatives():
    seen = look(make("supcon"), batch())
    same = LABELS.repeat(2)[:, None] == LABELS.repeat(2)
    assert torch.equal(seen.is_negative, ~same)
    assert torch.equal(seen.same_class, same)
    assert not (seen.weight > 0)[same].any()


@with_and_without_memory()
def test_a_look_changes_nothing(pair, memory):
    """For every loss and strategy: state, statistics, gradients and random numbers stay; what is seen is finite."""
    loss, arguments = setting(pair, 2, memory)
    z = batch()
    loss(z, **arguments)
    random, state = torch.get_rng_state(), {k: v.clone() for k, v in loss.state_dict().items()}
    seen = look(loss, z, target=arguments.get("target"))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in loss.state_dict().items())
    assert all(p.grad is None for p in loss.parameters())
    assert z.grad is None
    assert all(m.training for m in loss.modules())
    other, _ = setting(pair, 2, memory)
    other(z, **arguments)
    assert {k: float(v) for k, v in loss.statistics().items()} == {k: float(v) for k, v in other.statistics().items()}
    assert (seen.weight is None) == (pair[0] in NO_NEGATIVES)
    assert all(t is None or t.isfinite().all() for t in seen)
    assert seen.is_negative.any(1).all()
    assert seen.weight is None or (seen.weight.sum(1) > 0).any() or pair[1] in ("semi_hard", "debiased", "hcl")


def test_fewer_anchors_are_some_of_all():
    loss = remember(make("infonce", queue=8))
    every, some = (look(loss, batch(), anchors) for anchors in (12, 4))
    places = [0, 3, 6, 9]  # evenly spaced over both views
    for all_of_them, a_part in zip(every[:5], some[:5], strict=True):
        torch.testing.assert_close(a_part, all_of_them[places])
