"""The queue: what it holds, and what a loss makes of it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from loss_cases import (
    IDS,
    LABELS,
    assert_equal,
    batch,
    make,
    value_and_gradient,
)

from repel.losses.queue import Queue


def test_queue_of_the_batchs_keys_is_cross_view_infonce():
    """losses.candidates=queue with the other view's keys in the queue: one way, the same as candidates=cross."""
    z, target = batch(), batch(seed=1).detach()
    from_queue = make("infonce", queue=6, candidates="queue", symmetric=False)
    from_queue.queue.push(F.normalize(target[1], dim=-1), IDS, None)
    in_batch = make("infonce", symmetric=False)
    results = [value_and_gradient(loss, z, ids=IDS, target=target) for loss in (from_queue, in_batch)]
    assert_equal(*results)


def test_the_same_image_in_the_queue_is_no_negative():
    z = batch()
    past = F.normalize(z.detach(), dim=-1)[0]
    loss = make("ntxent", queue=6)
    loss.queue.push(past, IDS, None)
    assert loss(z, ids=torch.arange(90, 96)) > loss(z, ids=IDS)  # as other images, they are the hardest negatives


def test_queue_holds_the_last_embeddings_whatever_the_sizes():
    """Any number of batches of any size equal the tail of all of them."""
    for size, sizes in itertools.product((1, 7, 20), ([8, 8, 8], [3, 1, 9, 2], [50], [7, 7], [2])):
        queue, everything = Queue(size, 2), torch.arange(2 * sum(sizes)).float().view(-1, 2)
        start = 0
        for n in sizes:
            ids = torch.arange(start, start + n)
            queue.push(everything[ids], ids, ids % 3)
            start += n
            z, kept_ids, labels = queue.entries()
            expected = torch.arange(max(0, start - size), start)
            assert sorted(kept_ids.tolist()) == expected.tolist()
            assert torch.equal(z, everything[kept_ids])
            assert torch.equal(labels, kept_ids % 3)
            assert len(queue) == min(size, start)


def test_queue_survives_a_round_trip():
    queue, other = Queue(5, 2), Queue(5, 2)
    queue.push(torch.rand(7, 2), torch.arange(7), None)
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        q.push(torch.ones(3, 2), torch.arange(7, 10), None)
    assert all(torch.equal(a, b) for a, b in zip(queue.entries(), other.entries(), strict=True))
    assert queue.labels.tolist() == [-1] * 5


def test_empty_queue_is_valid():
    loss = make("infonce", queue=4, candidates="queue")
    value, gradient = value_and_gradient(loss, batch(), ids=IDS)
    assert value == 0  # no negatives yet
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("size", [-1, 2.5])
def test_queue_size_is_checked(size):
    with pytest.raises(ValueError, match=r"queue\.size"):
        Queue(size, 2)


def test_update_remembers_every_view_that_was_compared_with():
    loss, keys = make("ntxent", queue=100), batch()
    loss.update(keys, LABELS, IDS)
    z, ids, labels = loss.queue.entries()
    torch.testing.assert_close(z, F.normalize(keys.detach(), dim=-1).flatten(0, 1))
    assert torch.equal(ids, IDS.repeat(2))
    assert torch.equal(labels, LABELS.repeat(2))
    one_way = make("infonce", queue=100, symmetric=False)
    one_way.update(keys, LABELS, IDS)
    torch.testing.assert_close(one_way.queue.entries()[0], F.normalize(keys.detach(), dim=-1)[1])
