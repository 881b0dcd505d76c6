"""Dropout that is counted by the sample's place in the global batch."""

import itertools
import math

import pytest
import torch
from token_modality import InfoNCEWithNegatives, token_module, tokens
from torch import nn

from repel.base.collectives import share
from repel.base.dropout import FIRST_CROP, FIRST_NEGATIVE, CountedDropout, DrawCounters, give_counters
from repel.data.pair import Pair


def mask(rate=0.1, shape=(8, 64, 128), part=0, **counters):
    """Which elements are kept, of two views of four samples where nothing else is said."""
    dropout = CountedDropout(rate)
    dropout.on_pass(DrawCounters(**{"key": 1, "samples": 4} | counters), part)
    return dropout(torch.ones(shape)) > 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.02, 0.9])
def test_so_many_are_dropped(rate):
    kept = mask(rate).double()
    n, p = kept.numel(), round((1 - rate) * 2**16) / 2**16
    assert abs(p - (1 - rate)) <= 2**-17
    assert abs(kept.sum() - n * p) < 4 * math.sqrt(n * p * (1 - p))  # 1 in 16,000 seeds would fail
    for dim in range(3):  # and as many of each row, position and feature
        found = kept.mean([d for d in range(3) if d != dim])
        deviations = (found - p) / math.sqrt(p * (1 - p) / (n / len(found)))
        assert deviations.abs().max() < 5
        assert abs(deviations.square().mean() - 1) < 4 * math.sqrt(2 / len(found))  # as of independent draws


def test_what_is_kept_is_scaled():
    dropout, x = CountedDropout(0.25), torch.randn(4, 3, 7, dtype=torch.float64)
    dropout.on_pass(DrawCounters(1, 4), 0)
    kept = dropout(torch.ones_like(x)) > 0
    torch.testing.assert_close(dropout(x), x * kept / 0.75, rtol=1e-15, atol=0)
    assert dropout(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(dropout(x.bfloat16()) != 0, kept)  # whatever the precision


def test_masks_are_independent():
    """Of other steps, layers, views and samples; and neighbours of one another."""
    shape = (8, 64, 128)
    one = mask(0.5)
    others = [mask(0.5, key=2), mask(0.5, part=1), mask(0.5, view=2), mask(0.5, start=4), mask(0.5, key=1 + 2**40),
              mask(0.5, view=FIRST_CROP), mask(0.5, view=FIRST_NEGATIVE)]  # fmt: skip
    signs = [one.double() * 2 - 1 for one in (one, *others)]
    for a, b in itertools.combinations(signs, 2):
        assert abs((a * b).mean()) < 5 / math.sqrt(one.numel())
    a = signs[0]
    for dim in range(3):
        for shift in (1, 2, 4, shape[dim] // 2):
            assert abs((a * a.roll(shift, dim)).mean()) < 5 / math.sqrt(one.numel()), (dim, shift)
    # four elements at the corners of a rectangle, which sums or exclusive ors of two hashes would tie together
    corners = a * a.roll(1, 1) * a.roll(1, 2) * a.roll((1, 1), (1, 2))
    assert abs(corners.mean()) < 5 / math.sqrt(one.numel())


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("total", [8, 7])
def test_ranks_drop_what_one_device_drops(world, total):
    """Also where a rank has one sample more than another, and its texts are shorter."""
    whole = mask(shape=(2 * total, 6, 33), samples=total).view(2, total, 6, 33)
    parts = [share(total, rank, world) for rank in range(world)]
    for length, part in zip(itertools.cycle((6, 4)), parts, strict=False):
        B = part.stop - part.start
        own = mask(shape=(2 * B, length, 33), samples=B, start=part.start).view(2, B, length, 33)
        assert torch.equal(own, whole[:, part, :length])
    assert torch.equal(mask(shape=(total, 6, 33), samples=total, view=1), whole[1])


def test_gradients_are_those_of_the_mask():
    dropout, x = CountedDropout(0.3), torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    dropout.on_pass(DrawCounters(3, 2), 0)
    weights = torch.randn_like(x)
    (found,) = torch.autograd.grad((dropout(x) * weights).sum(), x)
    kept = dropout(torch.ones_like(x)).detach()
    torch.testing.assert_close(found, kept * weights, rtol=1e-15, atol=0)
    assert (kept == 0).any()


def test_nothing_is_dropped_in_evaluation_or_at_rate_0():
    x = torch.randn(4, 3)
    never, evaluated = CountedDropout(0.0), CountedDropout(0.5).eval()
    give_counters([never, evaluated], DrawCounters(1, 4))
    assert never(x) is x
    assert evaluated(x) is x
    with pytest.raises(ValueError, match=r"encoder\.dropout must be at least 0 and below 1, got 1"):
        CountedDropout(1.0)


def test_without_counters_it_is_torchs_dropout():
    """Elsewhere than in a run, and after it; state dicts do not know it."""
    dropout, x = CountedDropout(0.5), torch.ones(4, 100)
    dropout.on_pass(DrawCounters(1, 4), 0)
    state = torch.get_rng_state()
    assert torch.equal(dropout(x), dropout(x))
    assert torch.equal(torch.get_rng_state(), state)
    dropout.on_pass(None, 0)
    assert not torch.equal(dropout(x), dropout(x))
    torch.manual_seed(0)
    one = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(nn.functional.dropout(x, 0.5), one)
    assert not dropout.state_dict()


class Drawing(nn.Identity):
    """Notes what it is told before each of its passes."""

    def __init__(self):
        super().__init__()
        self.told, self.passes = None, []

    def on_pass(self, counters, part):
        self.told = None if counters is None else (counters, part)

    def forward(self, x):
        self.passes.append(self.told)
        return x


def test_a_module_tells_its_parts_what_each_pass_shows(monkeypatch):
    net = token_module(InfoNCEWithNegatives(), target=True)
    net.encoder = nn.Sequential(net.encoder, Drawing())
    net.target.encoder = nn.Sequential(net.target.encoder, Drawing())
    net.give_data_info(tokens().info())
    samples = tokens()
    views, hard = samples.x[:8].expand(2, -1, -1), samples.hard[:8].transpose(0, 1)
    net.loss.forward = lambda *args, **further: args[0].sum()
    monkeypatch.setattr("repel.module.share", lambda total, rank, world: slice(8, 16))
    net.on_train_start()
    net._draw_key = 5
    net.shared_step(Pair(views, torch.arange(8).expand(2, -1), None, crops=views, negatives=hard))
    online, target = net.encoder[1], net.target.encoder[1]
    counters = [DrawCounters(5, 8, 8, view) for view in (0, FIRST_CROP, FIRST_NEGATIVE)]
    assert [told for told, _ in online.passes] == counters[:2]
    assert [told for told, _ in target.passes] == [counters[0], counters[2]]
    assert len({part for _, part in online.passes + target.passes}) == 2  # the target drops otherwise
    net.on_train_end()
    assert online.told is target.told is None
