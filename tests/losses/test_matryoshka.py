"""loss.dims: the sum of the same loss on the first dimensions of every embedding, normalized anew."""

import pytest
import torch
from conftest import options
from hydra.errors import InstantiationException
from loss_cases import DIM, IDS, LABELS, NO_NEGATIVES, assert_equal, batch, make, node, remember, value_and_gradient

from repel.losses import InfoNCE, Queue

TAKE_DIMS = [name for name in options("loss") if "dims" in node("loss", name)]
SIZES = [5, 3, 2]


def arguments(loss, dims: int | None = None):
    """Everything that a call may bring; its first dimensions alone."""
    further = {"target": batch(2, seed=1)}
    further |= {"negatives": batch(2, seed=2)} if loss.takes_negatives else {}
    further |= {"crops": batch(2, seed=3)} if loss.takes_crops else {}
    return {"labels": LABELS, "ids": IDS} | {name: t.detach()[..., :dims] for name, t in further.items()}


@pytest.mark.parametrize("name", TAKE_DIMS)
def test_is_the_sum_over_cut_embeddings(name):
    """With a queue of whole embeddings, of which each size takes its part."""
    row_chunk = {} if name in NO_NEGATIVES else {"row_chunk": 5}
    loss = make(name, queue=8, dims=SIZES, **row_chunk)
    if name not in NO_NEGATIVES:
        remember(loss)
    ours = value_and_gradient(loss, batch(), **arguments(loss))
    total, gradient = torch.zeros((), dtype=torch.float64), torch.zeros_like(batch())
    for size in SIZES:
        alone = make(name, queue=8)
        if name not in NO_NEGATIVES:
            past, ids, labels = loss.queue.entries()
            alone.queue = Queue(8, size).double()
            alone.queue.push(torch.nn.functional.normalize(past[:, :size], dim=-1), ids, labels)
        value, part = value_and_gradient(alone, batch()[..., :size], **arguments(alone, size))
        total += value
        gradient[..., :size] += part
    assert_equal(ours, (total, gradient))


def test_all_dimensions_alone_are_the_loss_without():
    assert_equal(value_and_gradient(InfoNCE(dims=[DIM]), batch()), value_and_gradient(InfoNCE(), batch()))


def test_the_queue_keeps_whole_embeddings():
    loss = make("infonce", queue=8, dims=[3])
    loss.update(batch().detach(), LABELS, IDS)
    assert loss.queue.entries()[0].shape == (8, DIM)
    assert torch.isfinite(loss(batch(), LABELS, IDS))


def test_a_learned_temperature_is_one_for_all():
    loss = make("infonce", learn_temperature=True, dims=[5, 2])
    loss(batch()).backward()
    alone = [make("infonce", learn_temperature=True, dims=[size]) for size in (5, 2)]
    for one in alone:
        one(batch()).backward()
    torch.testing.assert_close(loss.log_factor.grad, sum(one.log_factor.grad for one in alone))


def test_losses_whose_state_or_value_knows_all_dimensions_have_no_such_option():
    """Prototypes have all dimensions; moments are of embeddings that are not normalized. A sum's members have it."""
    assert set(options("loss")) - set(TAKE_DIMS) == {"swav", "barlow", "vicreg", "joint"}


@pytest.mark.parametrize("dims", [[], 64, "64", [0], [2.5], [True], [3, 3]])
def test_impossible_dims_are_named(dims):
    with pytest.raises(InstantiationException) as caught:
        make("ntxent", dims=dims)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "loss.dims" in str(caught.value.__cause__)


def test_more_dimensions_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"loss\.dims.* 5 dimensions"):
        make("ntxent", dims=[8, 4])(batch())
