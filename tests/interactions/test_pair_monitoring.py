"""What Monitor and Health say of users and items, re-derived by loops over the pairs."""

import math
from types import SimpleNamespace

import pytest
import torch
from item_runs import pair_run
from runs_here import health_lines, history

from repel.data.samples import give_info
from repel.evaluation import geometry
from repel.interactions.pairs import InteractionInfo
from repel.losses.gradient_weights import negative_weights
from repel.losses.ratio import InfoNCE
from repel.monitoring.item_negatives import UserItems
from repel.monitoring.item_symptoms import find_item_symptoms
from repel.monitoring.monitor import _of_different_entities
from repel.negatives.known import Known
from repel.negatives.popularity import Popularity
from repel.negatives.soft import Chain
from repel.negatives.uniform import Uniform


def some_pairs(users: int = 30, items: int = 20, each: int = 4) -> torch.Tensor:
    """Low items are taken often."""
    draws = torch.Generator().manual_seed(0)
    odds = 1 / (1 + torch.arange(items, dtype=torch.float64)) ** 2
    taken = torch.stack([odds.multinomial(each, generator=draws) for _ in range(users)])
    pairs = torch.stack([torch.arange(users).repeat_interleave(each), taken.flatten()], 1)
    return pairs[torch.randperm(len(pairs), generator=draws)].int()


PAIRS = some_pairs()
INFO = InteractionInfo(len(PAIRS), users=30, items=20, pairs=PAIRS)


def batch(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (2, n, 6) and entities (2, n) of the first pairs."""
    z = torch.randn(2, n, 6, generator=torch.Generator().manual_seed(1))
    return z, PAIRS[:n].long().T + torch.tensor([[0], [30]])


def log_popularity() -> list[float]:
    logs = [math.log(max(1, sum(item == i for _, item in PAIRS.tolist()))) for i in range(20)]
    return [log - sum(logs) / 20 for log in logs]


KNOWN, POPULARITY = {(u, i) for u, i in PAIRS.tolist()}, log_popularity()


def test_known_rate_and_popularity_are_those_of_loops():
    z, ids = batch()
    seen = negative_weights(InfoNCE(temperature=0.3), z, z, None, ids, anchors=1000)
    items = UserItems(INFO).negatives(seen)
    unit = torch.nn.functional.normalize(z, dim=-1)
    found, pushes, drawn = [], [], []
    for row in range(64):
        user, item = ids[0, row].item(), ids[1, row].item() - 30
        others = [j for j in range(64) if ids[1, j].item() - 30 != item]  # a negative shows another item
        softmax = torch.tensor([(unit[0, row] @ unit[1, j]).item() / 0.3 for j in others]).softmax(0)
        theirs = [ids[1, j].item() - 30 for j in others]
        found += [(user, other) in KNOWN for other in theirs]
        pushes.append(sum(p * POPULARITY[other] for p, other in zip(softmax.tolist(), theirs, strict=True)))
        drawn.append(sum(POPULARITY[other] for other in theirs) / len(theirs))
    assert 0 < sum(found) < len(found)
    assert float(items.known_rate()) == pytest.approx(sum(found) / len(found))
    assert float(items.pushed_popularity()) == pytest.approx(sum(pushes) / 64, rel=1e-4)
    assert float(items.candidate_popularity()) == pytest.approx(sum(drawn) / 64, rel=1e-4)


def test_where_users_meet_no_items_there_is_nothing_to_measure():
    z, ids = batch()
    pairs = UserItems(INFO)
    assert pairs.negatives(negative_weights(InfoNCE(candidates="same"), z, z, None, ids, 1000)) is None
    assert pairs.negatives(negative_weights(InfoNCE(), z, z, None, None, 1000)) is None


@pytest.mark.parametrize(("known", "popular"), [(False, False), (True, False), (False, True), (True, True)])
def test_health_speaks_of_what_is_not_corrected(known, popular):
    z, ids = batch(48)
    strategies = [Uniform(), *([Known()] * known), *([Popularity()] * popular)]
    loss, pairs = InfoNCE(temperature=0.3, negatives=Chain(strategies)), UserItems(INFO)
    give_info(loss, INFO)
    seen = pairs.negatives(negative_weights(loss, z, z, None, ids, 1000))
    found = list(find_item_symptoms(loss, SimpleNamespace(z=z, ids=ids, labels=None, further={}), seen, pairs))
    uncorrected = (
        {"popular"} if known else {"known", "popular"}
    )  # where popularity is corrected, known ones push little
    assert {symptom.name for symptom in found} == (set() if popular else uncorrected)
    assert all("negatives=" in symptom.message for symptom in found)


def test_each_entity_counts_once_for_geometry():
    z, ids = batch()
    users = ids[0].unique()
    rows = torch.stack([z[0][(ids[0] == user).nonzero()[0, 0]] for user in users])
    kept = _of_different_entities(z[0], ids[0], 1000)
    assert len(kept) == len(users) < 64
    assert float(geometry.uniformity(kept)) == pytest.approx(float(geometry.uniformity(rows)), abs=1e-5)


def test_a_run_logs_both_sides(tmp_path):
    logged = history(pair_run(tmp_path / "a"))
    rows, validated = ([row for row in logged if row[name]] for name in ("train/loss", "val/loss"))
    assert (len(rows), len(validated)) == (6, 2)
    for side in ("users", "items"):
        for name in ("uniformity", "effective_rank", "deviation", "norm"):
            assert all(math.isfinite(float(row[f"geometry/{side}/{name}"])) for row in rows)
        assert all(math.isfinite(float(row[f"val/h_{side}_uniformity"])) for row in validated)
    assert "geometry/uniformity" not in rows[0]
    assert all(0 < float(row["negatives/known_rate"]) < 1 for row in rows)
    assert all(math.isfinite(float(row["negatives/popularity_of_push"])) for row in rows)


def test_a_run_says_that_known_positives_are_pushed_away(tmp_path):
    lines = health_lines(pair_run(tmp_path / "a", "trainer.max_epochs=6"))
    assert sum("of the negatives are known positives" in line for line in lines) == 1


@pytest.mark.parametrize(
    "typed", [["negatives=known"], ["loss=joint", "loss.members.labels=null", "~loss.temperature", "~loss.symmetric"]]
)
def test_the_known_rate_is_logged_once(tmp_path, typed):
    rows = [row for row in history(pair_run(tmp_path / "a", *typed)) if row["train/loss"]]
    assert all(0 < float(row["negatives/known_rate"]) < 1 for row in rows)
