"""Popular items, item-kNN and EASE: against their definitions, and how their options are chosen."""

import numpy as np
import pytest
import torch

from repel.evaluation.item_rankings import rank_all
from repel.evaluation.top_items import KnownItems
from repel.interactions import baselines
from repel.interactions.baselines import EASE, Popular, choose, ease_grid, item_knn_grid, pair_baselines
from repel.interactions.pairs import EntityStore, Interactions

USERS, ITEMS, CPU = 30, 14, torch.device("cpu")
STORE = EntityStore(USERS, ITEMS)


def pairs(seed: int = 0, share: float = 0.4) -> tuple[Interactions, Interactions]:
    """Training and validation pairs; item 13 has none in training, user 0 has no pair."""
    draws = np.random.default_rng(seed)
    kind = draws.choice(3, (USERS, ITEMS), p=[1 - share, 0.75 * share, 0.25 * share])
    kind[0], kind[:, 13] = 0, 2 * (kind[:, 13] == 2)
    train, val = (torch.from_numpy(np.argwhere(kind == part)).int() for part in (1, 2))
    return Interactions(train, store=STORE), Interactions(val, store=STORE)


def matrix(train: Interactions) -> np.ndarray:
    x = np.zeros((USERS, ITEMS))
    x[tuple(train.x.numpy().T)] = 1
    return x


def test_popular_items_are_those_of_most_training_pairs():
    train, _ = pairs()
    scores = Popular(train, CPU).scores(torch.arange(3))
    assert scores.tolist() == [matrix(train).sum(0).tolist()] * 3


def test_item_knn_sums_the_cosines_of_the_nearest(monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBORS", (4, 9))
    train, _ = pairs()
    x, grid = matrix(train), list(item_knn_grid(train, CPU))
    assert [tuple(options.values()) for _, options in grid] == [
        (k, shrink) for shrink in (0.0, 10.0, 100.0) for k in (4, 9)
    ]
    for scorer, options in grid[:3]:
        similar = np.zeros((ITEMS, ITEMS))
        for j in range(ITEMS):
            both = {i: float((x[:, i] * x[:, j]).sum()) for i in range(ITEMS) if i != j}
            norms = {i: np.sqrt(x[:, i].sum() * x[:, j].sum()) + options["shrink"] for i in both}
            near = {i: both[i] / norms[i] for i in both if both[i]}
            for i in sorted(near, key=lambda i: (-near[i], i))[: options["neighbors"]]:
                similar[i, j] = near[i]
        users = torch.tensor([4, 0, 29, 4])
        np.testing.assert_allclose(scorer.scores(users).numpy(), (x @ similar)[users], rtol=1e-6)


def test_neighbors_do_not_depend_on_the_blocks(monkeypatch):
    train, _ = pairs()
    usual = [scorer.similar.toarray() for scorer, _ in item_knn_grid(train, CPU)]
    monkeypatch.setattr(baselines, "ROWS", 3)
    for (scorer, _), expected in zip(item_knn_grid(train, CPU), usual, strict=True):
        np.testing.assert_array_equal(scorer.similar.toarray(), expected)


@pytest.mark.parametrize("l2", [1.0, 30.0])
def test_ease_is_the_constrained_ridge_regression(l2):
    """Column j: ridge regression of item j on all the others, solved on its own."""
    train, _ = pairs()
    x = matrix(train)
    expected = np.zeros((ITEMS, ITEMS))
    for j in range(ITEMS):
        others = [i for i in range(ITEMS) if i != j]
        ridge = x[:, others].T @ x[:, others] + l2 * np.eye(ITEMS - 1)
        expected[others, j] = np.linalg.solve(ridge, x[:, others].T @ x[:, j])
    found = EASE(KnownItems.of(train.x, USERS), torch.from_numpy(x.T @ x), l2)
    np.testing.assert_allclose(found.weight, expected, atol=1e-6)
    users = torch.tensor([0, 7])
    np.testing.assert_allclose(found.scores(users), (x @ expected)[users], atol=1e-5)


def ndcg(scorer, train, val) -> float:
    known, wanted = (KnownItems.of(part.x, USERS) for part in (train, val))
    return rank_all(scorer, known, wanted, [20]).metrics["ndcg_at_20"].value


def test_options_are_chosen_by_ndcg_on_validation(monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBORS", (2, 4, 9))
    train, val = pairs(3)
    grid = list(item_knn_grid(train, CPU))
    values = [ndcg(scorer, train, val) for scorer, _ in grid]
    assert len(set(values)) > 3
    chosen, options = choose(iter(grid), train, val, CPU)
    best = int(np.argmax(values))  # the first of equals
    assert (chosen, options) == grid[best]
    tried = []
    eases = list(ease_grid(train, CPU))
    values = [ndcg(scorer, train, val) for scorer, _ in eases]
    until = next((n for n in range(1, len(values)) if values[n] < max(values[:n])), len(values))
    chosen, _ = choose((tried.append(1) or one for one in eases), train, val, CPU, until_worse=True)
    assert len(tried) == min(until + 1, len(eases))
    assert chosen is eases[int(np.argmax(values[:until]))][0]


def test_the_rows_of_a_report(monkeypatch, capsys):
    train, val = pairs()
    rows = pair_baselines(train, val)
    assert [row.source for row in rows] == ["popular", "item_knn", "ease"]
    fitted = {row.source: row.scorer(CPU) for row in rows}
    assert {name: list(options) for name, (_, options) in fitted.items()} == {
        "popular": [], "item_knn": ["neighbors", "shrink"], "ease": ["l2"]
    }  # fmt: skip
    assert all(scorer.scores(torch.arange(2)).shape == (2, ITEMS) for scorer, _ in fitted.values())
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(baselines, "EASE_ITEMS", 13)
    assert [row.source for row in pair_baselines(train, val)] == ["popular", "item_knn"]
    said = "note     the baseline EASE is left out: 14 items are more than 13, whose matrix it inverts\n"
    assert capsys.readouterr().out == said
