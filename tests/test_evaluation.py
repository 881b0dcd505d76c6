"""kNN and features against plain forms."""

import math

import pytest
import torch

from repel.data.images import Images
from repel.evaluation.features import encode, raw_pixels
from repel.evaluation.knn import knn_predict, knn_top1


def plain_knn(bank, labels, queries, k, temperature):
    """Wu et al. 2018, sec. 3.4, query by query."""
    predicted = []
    for query in queries:
        cosines = [(float(query @ b / (query.norm() * b.norm())), int(y)) for b, y in zip(bank, labels, strict=True)]
        votes: dict[int, float] = {}
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[label] = votes.get(label, 0) + math.exp(cosine / temperature)
        predicted.append(max(votes, key=votes.get))
    return torch.tensor(predicted)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.07), (20, 1.0), (500, 0.1)])
def test_knn_equals_the_plain_form(k, temperature):
    bank, queries = torch.randn(60, 8, dtype=torch.float64), torch.randn(40, 8, dtype=torch.float64)
    labels = torch.randint(0, 4, (60,))
    assert torch.equal(
        knn_predict(bank, labels, queries, k, temperature), plain_knn(bank, labels, queries, k, temperature)
    )


def test_closer_neighbours_weigh_more():
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels, query = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_predict(bank, labels, query, 3, temperature=0.1).item() == 0
    assert knn_predict(bank, labels, query, 3, temperature=10.0).item() == 1


def test_cold_temperatures_do_not_overflow():
    bank, labels = torch.eye(3).float(), torch.arange(3)
    assert knn_predict(bank, labels, bank, 2, temperature=0.001).tolist() == [0, 1, 2]


def test_queries_are_handled_in_parts(monkeypatch):
    bank, labels, queries = torch.randn(30, 4), torch.randint(0, 3, (30,)), torch.randn(17, 4)
    whole = knn_predict(bank, labels, queries, 3, 0.1)
    monkeypatch.setattr("repel.evaluation.knn.QUERIES", 5)
    assert torch.equal(whole, knn_predict(bank, labels, queries, 3, 0.1))


def test_top1_is_a_share():
    bank, labels = torch.eye(4), torch.arange(4)
    assert knn_top1(bank, labels, bank, torch.tensor([0, 1, 2, 0]), 1, 0.1) == 0.75
    assert knn_top1(bank[:1], labels[:1], bank[:1], labels[:1], 1, 0.1) == 1.0  # a single class


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.1), (5, 0.0), (5, -1.0)])
def test_impossible_settings_are_refused(k, temperature):
    with pytest.raises(ValueError, match="kNN"):
        knn_predict(torch.eye(2), torch.arange(2), torch.eye(2), k, temperature)


@pytest.fixture
def images():
    return Images(torch.randint(0, 256, (23, 1, 6, 6), dtype=torch.uint8), torch.arange(23) % 3)


def test_features_are_of_eval_mode_in_order_and_leave_the_encoder_as_it_was(images, monkeypatch):
    monkeypatch.setattr("repel.evaluation.features.BATCH", 10)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(36), torch.nn.Dropout(0.5))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    features, places = encode(encoder, images, lambda x: x.float() / 255, torch.device("cpu"))
    assert places.tolist() == list(range(len(images)))
    assert encoder.training
    assert not features.requires_grad
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())  # no statistics moved
    expected = encoder.eval()(images.pixels.float() / 255)
    torch.testing.assert_close(features, expected)
    encode(encoder, images, lambda x: x.float() / 255, torch.device("cpu"))
    assert not encoder.training


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_give_the_features_of_one(images, monkeypatch, world):
    """The share of each rank, with the exchange played by this process."""
    import repel.evaluation.features as features

    monkeypatch.setattr(features, "BATCH", 10)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))
    alone, _ = encode(encoder, images, lambda x: x.float(), torch.device("cpu"))
    shares = []
    monkeypatch.setattr(features, "world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(features, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(features, "gather", lambda share: shares.append(share) or share.repeat(world, 1, 1))
        encode(encoder, images, lambda x: x.float(), torch.device("cpu"))
    monkeypatch.setattr(features, "gather", lambda share: torch.cat(shares))
    together, _ = encode(encoder, images, lambda x: x.float(), torch.device("cpu"))
    torch.testing.assert_close(together, alone)


def test_raw_pixels():
    small = Images(torch.full((2, 3, 8, 8), 51, dtype=torch.uint8))
    assert raw_pixels(small)[0].shape == (2, 3 * 64)
    torch.testing.assert_close(raw_pixels(small)[0], torch.full((2, 192), 0.2))
    assert raw_pixels(Images(torch.zeros(2, 3, 96, 96, dtype=torch.uint8)))[0].shape == (2, 3 * 32 * 32)
