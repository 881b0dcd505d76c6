"""Blocks of rows: the same values and gradients, in bounded memory."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from loss_cases import (
    DIM,
    IDS,
    LABELS,
    assert_equal,
    batch,
    batch_of,
    make,
    value_and_gradient,
)

from repel.losses import AlignUniform, InfoNCE, NTXent, Queue, SupCon, ratio, rowwise
from repel.losses import chunking as memory
from repel.losses.base import Loss
from repel.negatives import Mixed


def test_auto_chunks_by_the_memory_there_is(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**40)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert memory.auto_chunk(1024, 1024, 4, cpu) is None
    assert memory.auto_chunk(2048, 2048, 4, cpu) == 512  # what fits the caches: all at once takes up to twice the time
    assert memory.auto_chunk(2**14, 2**14, 4, gpu) is None
    small = memory.auto_chunk(2**14, 2**14, 4, cpu)
    assert 1 <= small < 2**14
    assert small & (small - 1) == 0
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**24)
    assert memory.auto_chunk(2**14, 2**14, 4, gpu) < small
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert memory.auto_chunk(2**14, 2**14, 4, cpu) == 1


def test_free_memory_is_a_plausible_number():
    assert 2**24 < memory.free_bytes(torch.device("cpu")) < 2**50


def test_auto_equals_all_at_once(monkeypatch):
    monkeypatch.setattr(rowwise, "ALWAYS_DENSE", 0)
    monkeypatch.setattr(rowwise, "auto_chunk", lambda *sizes: 4)
    results = [value_and_gradient(make("ntxent", "hcl", row_chunk=chunk), batch()) for chunk in ("auto", None)]
    assert_equal(*results)


def test_row_chunks_bound_the_memory(monkeypatch):
    """No more than row_chunk anchors are ever compared at a time, and no row of logits is kept for backward."""
    heights, sizes = [], []
    per_anchor = ratio.InfoNCE.per_anchor

    def watched(self, block, *rest):
        heights.append(len(block.logits))
        return per_anchor(self, block, *rest)

    monkeypatch.setattr(ratio.InfoNCE, "per_anchor", watched)
    z, loss = batch(samples=64), make("ntxent", row_chunk=8)
    value = loss(z)
    node, seen = [value.grad_fn], set()
    while node:  # what the graph holds on to
        current = node.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        sizes += [t.numel() for t in getattr(current, "saved_tensors", ()) if t is not None]
        node += [n for n, _ in current.next_functions]
    value.backward()
    assert set(heights) == {8}
    assert len(sizes) >= 2
    assert max(sizes) <= 2 * 64 * DIM  # the embeddings themselves


def test_auto_counts_what_mixing_holds(monkeypatch):
    """Where mixtures take more memory than the logits, as at MoCHi's sizes: no more than there is."""
    free = 2**21
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    monkeypatch.setattr(rowwise, "ALWAYS_DENSE", 0)
    z = batch(samples=64, dim=32, dtype=torch.float32)

    def peak(row_chunk):
        loss = InfoNCE(negatives=Mixed(hardest=128, pairs=256, with_anchor=32), queue=Queue(256, 32),
                       candidates="queue", symmetric=False, row_chunk=row_chunk)  # fmt: skip
        loss.queue.push(F.normalize(torch.randn(256, 32), dim=-1), None, None)
        return peak_bytes(lambda: loss(z).backward())

    assert peak("auto") < free < peak(None)


def peak_bytes(work) -> int:
    """Of what torch allocates on the CPU meanwhile."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.fixture(params=["cpu", "gpu"])
def device_kind(request, monkeypatch):
    """Both forms of a loss in blocks: on a CPU values are asked for, on a GPU they are not."""
    if request.param == "gpu":
        monkeypatch.setattr(memory, "_may_be_asked", lambda tensor: False)
    return request.param


def test_rows_of_different_weight_get_their_own_gradient(device_kind):
    """Where the loss is no mean over anchors, blocks are computed again with the weights."""
    results = []
    for chunk in (None, 5):
        z = batch().detach().requires_grad_()
        values = make("ntxent", "hcl", row_chunk=chunk, learn_temperature=True).losses(batch_of(z, None, IDS))
        (values * torch.arange(12)).sum().backward()
        results.append((values.detach(), z.grad))
    assert_equal(*results, rtol=1e-12, atol=1e-14)


class Weighed(NTXent):
    """What a user may write: no mean over anchors."""

    def losses(self, batch):
        values = NTXent.losses(self, batch)
        return values * torch.arange(len(values))


@pytest.mark.parametrize(("kind", "blocks"), [(NTXent, (2, 2)), (SupCon, (2, 2)), (Weighed, (4, 4)),
                                              (AlignUniform, (4, 4))])  # fmt: skip
def test_a_mean_over_anchors_is_computed_once(device_kind, kind, blocks, monkeypatch):
    """As often on both devices: whether weights differ a GPU is told, and never has to say."""
    counted, results = [], []
    logit_block = kind.logit_block
    monkeypatch.setattr(kind, "logit_block", lambda *args: counted.append(1) or logit_block(*args))
    for chunk in (None, 6 // (1 + (kind is AlignUniform))):
        results.append(value_and_gradient(kind(row_chunk=chunk).double(), batch(), labels=LABELS, ids=IDS))
        seen = len(counted)
        counted.clear()
    assert_equal(*results, rtol=1e-12, atol=1e-14)
    assert seen == blocks[0] * (1 + (kind is AlignUniform))


class OfAnother(Loss):
    """What a user may write: another loss's values, weighed."""

    def __init__(self, row_chunk):
        super().__init__()
        self.inner = NTXent(row_chunk=row_chunk)

    def losses(self, batch):
        values = self.inner.losses(batch)
        return values * torch.arange(len(values))


class Weighing:
    def losses(self, batch):
        return Weighed.losses(self, batch)


class Mixin(Weighing, NTXent):
    pass


@pytest.mark.parametrize("kind", [OfAnother, Mixin])
def test_values_that_another_class_weighs_have_their_own_gradients(device_kind, kind):
    """The mean that a loss takes of its own values says nothing of those of another, or of the one that it extends."""
    results = [value_and_gradient(kind(row_chunk=chunk), batch()) for chunk in (None, 5)]
    assert_equal(*results, rtol=1e-12, atol=1e-14)


def test_without_gradient_blocks_are_only_values():
    with torch.no_grad():
        values = [make("ntxent", row_chunk=chunk)(batch()) for chunk in (None, 5)]
    assert not values[1].requires_grad
    torch.testing.assert_close(*values)
