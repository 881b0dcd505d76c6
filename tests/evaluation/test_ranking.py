"""Rankings of all items: against a form user by user, against torchmetrics, and the protocol's guarantees."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional import retrieval

from repel.evaluation import ranking_metrics
from repel.evaluation.item_rankings import popularity_fifths, rank_all
from repel.evaluation.protocol import Network, Part, ReportRow, measure
from repel.evaluation.ranking import CosineScorer, KnownItems, Ranking, top_items
from repel.interactions.pairs import EntityStore, Interactions

USERS, ITEMS = 23, 17


def log(seed: int = 0):
    """Scores (users, items) with many ties, and pairs of training, validation and test; some users have none."""
    draws = np.random.default_rng(seed)
    scores = torch.from_numpy(draws.integers(-3, 4, (USERS, ITEMS)).astype(np.float32)) / 4
    kind = torch.from_numpy(draws.choice(4, (USERS, ITEMS), p=[0.6, 0.2, 0.1, 0.1]))
    kind[3], kind[5] = 0, 1  # nothing at all; everything in training
    kind[7, :-2], kind[7, -2:] = 1, 3  # two items are left, fewer than k
    shuffled = [pairs[torch.from_numpy(draws.permutation(len(pairs)))].int()
                for pairs in ((kind == part).nonzero() for part in (1, 2, 3))]  # fmt: skip
    return Fixed(scores), *shuffled


class Fixed:
    def __init__(self, table):
        self.table = table

    def scores(self, users):
        return self.table[users]


def sets(pairs) -> dict[int, set[int]]:
    found = {user: set() for user in range(USERS)}
    for user, item in pairs.tolist():
        found[user].add(item)
    return found


def plain_ranking(scores, known, k):
    """Of one user: Python's stable sort of what is not known."""
    left = [item for item in range(len(scores)) if item not in known]
    return sorted(left, key=lambda item: -float(scores[item]))[:k]


def plain_metrics(table, known, wanted, k):
    """name -> values of the users with a wanted item, each by its definition."""
    known, wanted, values = sets(known), sets(wanted), {}
    for user in range(USERS):
        if not wanted[user]:
            continue
        ranking = plain_ranking(table[user], known[user], k)
        ranks = [rank for rank, item in enumerate(ranking, 1) if item in wanted[user]]
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted[user])) + 1))
        own = {
            "recall": len(ranks) / len(wanted[user]),
            "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks) / ideal,
            "precision": len(ranks) / k,
            "mrr": 1 / ranks[0] if ranks else 0.0,
            "hit_rate": float(bool(ranks)),
        }
        for name, value in own.items():
            values.setdefault(f"{name}_at_{k}", []).append(value)
    return values


def test_best_first_without_known_items_and_ties_by_number(monkeypatch):
    scorer, train, val, _ = log()
    known, expected = torch.cat([train, val]), []
    for user in range(USERS):
        ranking = plain_ranking(scorer.table[user], sets(known)[user], 6)
        expected.append(ranking + [-1] * (6 - len(ranking)))
    for cells in (2**22, 3 * ITEMS, 1):  # in one block, in several, user by user
        monkeypatch.setattr("repel.evaluation.top_items.CELLS", {"cpu": cells})
        found = top_items(scorer, torch.arange(USERS), KnownItems.of(known, USERS), 6)
        assert found.tolist() == expected
    assert top_items(scorer, torch.arange(USERS), None, 99).shape == (USERS, ITEMS)
    zeros = Fixed(torch.tensor([[0.0, -0.0, 0.0, math.inf, -math.inf, -1e-30]]))
    assert top_items(zeros, torch.tensor([0]), None, 6).tolist() == [[3, 0, 1, 2, 5, -1]]


@pytest.mark.parametrize("k", [1, 4, 30])  # 30: more than there are items
def test_metrics_equal_their_definitions_user_by_user(k):
    scorer, train, val, test = log()
    known = torch.cat([train, val])
    found = rank_all(scorer, KnownItems.of(known, USERS), KnownItems.of(test, USERS), [k, 2]).metrics
    for at in (k, 2):
        for name, values in plain_metrics(scorer.table, known, test, at).items():
            interval = 1.96 * np.std(values, ddof=1) / math.sqrt(len(values))
            assert found[name] == pytest.approx((np.mean(values), interval, len(values)), abs=1e-12)


def test_metrics_equal_torchmetrics():
    draws = torch.Generator().manual_seed(0)
    users, items = torch.randn(USERS, 5, generator=draws), torch.randn(ITEMS, 5, generator=draws)
    _, train, val, test = log()
    k, known, wanted = 4, sets(torch.cat([train, val])), sets(test)
    found = ranking_metrics(users.numpy(), items, torch.cat([train, val]), test.numpy(), k)
    cosines = torch.nn.functional.cosine_similarity(users[:, None], items[None], dim=2)
    of = {"recall": retrieval.retrieval_recall, "ndcg": retrieval.retrieval_normalized_dcg,
          "precision": retrieval.retrieval_precision, "hit_rate": retrieval.retrieval_hit_rate,
          "mrr": retrieval.retrieval_reciprocal_rank}  # fmt: skip
    for name, function in of.items():
        values = []
        for user in (user for user in range(USERS) if wanted[user]):
            left = [item for item in range(ITEMS) if item not in known[user]]
            truth = torch.tensor([item in wanted[user] for item in left])
            values.append(float(function(cosines[user, left], truth, top_k=k)))
        assert found[f"{name}_at_{k}"] == pytest.approx(np.mean(values), abs=1e-6)


def test_coverage_popularity_and_recall_by_fifths():
    scorer, train, val, test = log()
    k, known, wanted = 4, sets(torch.cat([train, val])), sets(test)
    scores = {s.key: s for s in fitted(scorer, train, val, k).score(part(test))}
    lists = {user: plain_ranking(scorer.table[user], known[user], k) for user in range(USERS) if wanted[user]}
    counts = np.bincount(train[:, 1], minlength=ITEMS)
    listed = [item for ranking in lists.values() for item in ranking]
    assert scores[f"coverage_at_{k}"].value == pytest.approx(len(set(listed)) / ITEMS)
    assert scores[f"popularity_at_{k}"].value == pytest.approx(np.mean(counts[listed]))
    order = sorted(range(ITEMS), key=lambda item: (counts[item], item))
    assert popularity_fifths(torch.from_numpy(counts))[torch.tensor(order)].diff().min() >= 0
    for number, items in enumerate(np.split(order, [4, 7, 11, 14]), 1):  # 17 items: 4, 3, 4, 3, 3
        own = set(items.tolist())
        recalls = [len(set(ranking) & wanted[user] & own) / len(wanted[user] & own)
                   for user, ranking in lists.items() if wanted[user] & own]  # fmt: skip
        score = scores[f"recall_at_{k}_fifth_{number}"]
        assert (score.value, score.settings["samples"]) == pytest.approx((np.mean(recalls), len(recalls)))


def part(pairs) -> Part:
    samples = Interactions(pairs, store=EntityStore(USERS, ITEMS))
    return Part(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), samples)


def fitted(scorer, train, val, k):
    network = Network(None, None, None, torch.device("cpu"), scorer, {"l2": 3.0})
    return Ranking([k], k).fit(part(train), part(val), network)


def test_validation_scores_leave_out_training_pairs_alone():
    scorer, train, val, _ = log()
    chosen = {s.key: s for s in fitted(scorer, train, val, 3).chosen}
    expected = plain_metrics(scorer.table, train, val, 3)
    assert list(chosen) == ["recall_at_3", "ndcg_at_3"]
    for name, score in chosen.items():
        assert score.value == pytest.approx(np.mean(expected[name]))
        assert (score.split, score.settings["l2"]) == ("val", 3.0)


class Encoded:
    """Splits, and a network that says what was encoded when."""

    def __init__(self, pairs):
        self.store = EntityStore(USERS, ITEMS)
        train, val, test = (Interactions(x, store=self.store) for x in pairs)
        self.splits = type("Splits", (), {"train": train, "val": val, "test": test})
        self.encoded = []

    def network(self) -> Network:
        vectors = torch.randn(USERS + ITEMS, 4, generator=torch.Generator().manual_seed(0))

        def encode(samples):
            self.encoded.append(len(samples))
            return vectors[samples.x[:, 0]], torch.arange(len(samples))

        return Network(encode, torch.nn.Identity(), lambda x: x, torch.device("cpu"))

    def measure(self):
        rows = [ReportRow("last", "x", "h", self.network, 1, headline=True)]
        return [m.record() for m in measure(rows, {"ranking": Ranking([3], 3)}, self, None, 1, labelled=False)]


def test_validation_does_not_change_with_the_test_pairs_and_all_are_encoded_once():
    _, train, val, test = log()
    one, other = Encoded((train, val, test)), Encoded((train, val, test.flip(0)[: len(test) // 2]))
    first, second = one.measure(), other.measure()
    assert one.encoded == [USERS, ITEMS]
    chosen = [[r for r in records if r["split"] == "val"] for records in (first, second)]
    assert chosen[0] == chosen[1]
    metrics = {r["metric"]: r["value"] for r in first}
    assert {"test/recall_at_3", "test/ndcg_at_3", "val/ndcg_at_3", "test/coverage_at_3"} <= set(metrics)
    assert metrics["test/recall_at_3"] != {r["metric"]: r["value"] for r in second}["test/recall_at_3"]
    vectors = one.network().encode(one.store.all_users())[0], one.network().encode(one.store.all_items())[0]
    by_arrays = ranking_metrics(*vectors, torch.cat([train, val]), test, 3)
    assert by_arrays["recall_at_3"] == metrics["test/recall_at_3"]


def test_mistakes_are_said_in_one_line():
    with pytest.raises(ValueError, match=r"evaluators\.ranking\.ks needs numbers >= 1"):
        Ranking([0])
    with pytest.raises(ValueError, match="needs a test pair"):
        ranking_metrics(torch.eye(2), torch.eye(2), [[0, 0]], [], 1)
    images = type("Images", (), {"modality": type("M", (), {"noun": "images"})})
    wrong = Part(torch.zeros(0), torch.zeros(0), images)
    with pytest.raises(ValueError, match="evaluators=ranking ranks items for users, and this data is images"):
        Ranking().fit(wrong, wrong, Network(None, None, None, torch.device("cpu")))


def test_scores_are_cosines():
    users, items = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 5.0], [2.0, 2.0], [1.0, 0.0]])
    expected = torch.tensor([[0.0, 2**-0.5, 1.0], [2**-0.5, 1.0, 2**-0.5]])
    torch.testing.assert_close(CosineScorer(users, items).scores(torch.tensor([0, 1])), expected)
