"""gather=ring: value and gradient of the whole batch, where no rank holds all embeddings. Float64, gloo, processes."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import TINY, config, made_once
from loss_cases import PAIRS, assert_equal, batch, covering, make
from rank_gradients import data
from ranks import forked
from ring_ranks import ALLOWED, LARGE, RingNetwork, ranks_main

from repel.data.pair import Pair
from repel.engine.build import build_module
from repel.losses import InfoNCE, LogRatioLoss, NTXent, Queue, negative_weights
from repel.losses.ring import ring_loss, tiled
from repel.monitoring.symptoms import find_causes
from repel.negatives import Chain, Debiased, FalseNegatives, OwnNegatives, SemiHard, Tilt, Uniform

FEW = {(pair, number % 2 == 1) for number, pair in enumerate(covering(ALLOWED))}  # each loss and strategy once
EVERY = FEW.union((pair, False) for pair in ALLOWED)
CASES = pytest.mark.parametrize(  # every pair on two ranks, each loss and strategy once on others
    ("ring", "pair", "memory"),
    [pytest.param(world, pair, memory, id=f"{world}-{'-'.join(pair)}-{'target and crops' if memory else 'batch'}",
                  marks=() if world == 4 else pytest.mark.slow)
     for world in (2, 4, 5) for pair, memory in sorted(EVERY if world == 2 else FEW)],
    indirect=["ring"],
)  # fmt: skip


@pytest.fixture(scope="session")
def ring(request, tmp_path_factory):
    """Of each rank what it found; five share 12 samples unevenly."""
    world = request.param

    def make(folder: Path) -> Path:
        chosen = [item.callspec.params for item in request.session.items if "ring" in item.fixturenames]
        cases = {(of["pair"], of["memory"]) for of in chosen if "pair" in of and of["ring"] == world}
        process = forked(ranks_main, world, str(folder), sorted(cases))
        process.start()
        process.join(200)
        assert process.exitcode == 0
        return folder

    folder = made_once(tmp_path_factory, f"ring{world}", make)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@CASES
def test_ring_equals_the_whole_batch(ring, pair, memory):
    """With explicit negatives, a learned temperature, repeated entities; a target, crops and blocks of rows.

    On several ranks, and on the one that this process is.
    """
    net, (samples, labels, ids, target) = RingNetwork(pair, memory), data()
    found = []
    for alone in (False, True):
        net.zero_grad()
        value = net(samples, labels, ids, target if memory else None, slice(None), ring=alone)
        value.backward()
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
        found.append((value.detach(), gradients))
    whole, one = found
    for mean, gradients in (one, *(rank[pair, memory] for rank in ring)):
        torch.testing.assert_close(mean, whole[0], rtol=1e-10, atol=1e-12)
        for name, expected in whole[1].items():
            torch.testing.assert_close(gradients[name], expected, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("ring", [pytest.param(2, marks=pytest.mark.slow), 4], indirect=True)
def test_no_rank_holds_all_embeddings(ring):
    views, samples, dim = LARGE
    everything = views * samples * len(ring) * dim
    for found in (rank["largest"] for rank in ring):
        assert found[False] >= everything
        assert found[True] <= views * samples * dim


def test_most_losses_and_strategies_are_allowed():
    """So that the tests above compare something."""
    losses, strategies = ({pair[side] for pair in ALLOWED} for side in (0, 1))
    assert {"ntxent", "infonce", "decoupled", "dhel", "siglip", "triplet", "multi_similarity"} <= losses
    assert {"uniform", "tilt", "debiased", "hcl", "known", "popularity", "semi_hard"} <= strategies


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair not in ALLOWED and pair in covering(PAIRS)])
def test_others_are_refused_in_a_line(pair):
    with pytest.raises(ValueError, match=r"^gather=ring: (loss|negatives)=\w+ .*; gather=all works$"):
        ring_loss(make(*pair), batch())


def test_queue_and_catalog_are_refused():
    queued = NTXent(queue=Queue(8, 5))
    with pytest.raises(ValueError, match=r"^gather=ring .* queue.size=8; gather=all works$"):
        tiled(queued)
    with pytest.raises(ValueError, match=r"^gather=ring .* loss.candidates=catalog; gather=all works$"):
        tiled(InfoNCE(candidates="catalog", symmetric=False))


class Hinge(LogRatioLoss):
    def link(self, log_z, positive):
        return (log_z - positive).relu()


class OwnLosses(NTXent):
    def losses(self, batch):
        return super().losses(batch) ** 2


class OwnWeights(Tilt):
    def weights(self, block):
        return super().weights(block).flip(1)


class OwnDebiased(Debiased):
    def correct(self, log_z, block):
        return log_z - block.logits.mean(1)


def test_what_a_subclass_overrides_is_not_taken_for_parts():
    """A link of one's own is; losses and weights of one's own must say so."""
    tiled(Hinge())
    for loss in (OwnLosses(), NTXent(negatives=OwnWeights()), NTXent(negatives=Chain([Uniform(), OwnDebiased()]))):
        with pytest.raises(ValueError, match=r"Own(Losses|Weights|Debiased)"):
            tiled(loss)


STRATEGIES = [
    Tilt(2.0, "max"), Tilt(2.0, "mean", detach=True), Tilt(0.7, "none", scope="own"), Tilt(0.7, "none", scope="others"),
    Chain([Tilt(1.0, "mean"), Tilt(0.5, "max"), Debiased(0.2)]), Chain([Tilt(1.0, "none"), Debiased(0.01)]),
    OwnNegatives(only=True), Chain([OwnNegatives(only=True), SemiHard(0.5)]), FalseNegatives(0.3, k=None),
]  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES, ids=range(len(STRATEGIES)))
@pytest.mark.parametrize("name", ["ntxent", "siglip", "triplet"])
def test_options_of_tilt_and_sums_over_dimensions(name, strategy):
    if name != "ntxent" and strategy.corrects:
        strategy = Chain(strategy.members[:-1])
    whole = make(name, copy.deepcopy(strategy), dims=[5, 3])
    found = []
    for call in (whole, lambda z, **further: ring_loss(whole, z, **further)):
        z, negatives = batch(3), batch(2, seed=3)
        value = call(z, negatives=negatives)
        found.append([value.detach(), *torch.autograd.grad(value, [z, negatives])])
    assert_equal(*found)


def test_ids_are_asked_for_as_without_a_ring():
    with pytest.raises(ValueError, match="ids"):
        ring_loss(make("ntxent", "known"), batch())


def test_a_step_of_the_module():
    """What callbacks and the loss's memory get is of this rank, which is all there is here."""
    found, samples = [], torch.rand(2, 6, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for way in ("all", "ring"):
        module = build_module(config(*TINY, f"gather={way}", "predictor=mlp", "target=ema")).double()
        loss, output = module.shared_step(Pair(samples, torch.arange(6).expand(2, -1), None))
        loss.backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        found.append([loss.detach(), output.z, output.keys, output.ids, *gradients])
    assert_equal(*found)


@pytest.mark.parametrize("typed", [["negatives=hardest"], ["loss=vicreg"], ["queue.size=64", "target=ema"]])
def test_a_run_is_refused_before_it_reads_data(typed):
    with pytest.raises(ValueError, match=r"^gather=ring.*gather=all works$"):
        build_module(config(*TINY, "gather=ring", *typed))


def test_health_counts_the_negatives_on_other_ranks(monkeypatch):
    module = build_module(config(*TINY, "gather=ring"))
    batch = Pair(torch.rand(2, 4, 1, 28, 28), torch.arange(4).expand(2, -1), None)
    _, step = module.shared_step(batch)
    seen = negative_weights(module.loss, step.z, step.keys, None, step.ids, 8)
    (few,) = find_causes(batch, module, step, seen)
    assert "6 negatives, in a batch of 4 samples" in few.message
    monkeypatch.setattr("repel.monitoring.symptoms.world_size", lambda: 2)
    assert not [*find_causes(batch, module, step, seen)]  # 14 negatives
