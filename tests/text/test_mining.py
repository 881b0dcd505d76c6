"""Hard negatives of texts: what may be one, and the table."""

import pytest
import torch
import torch.nn.functional as F

from repel.text.mining import Window, mine


def plain(queries, corpus, own, positive, window, k, classes=None):
    """The same, one query and one candidate at a time."""
    rows = []
    for i, query in enumerate(F.normalize(queries, dim=1)):
        ranked = sorted(
            ((float(query @ c), j) for j, c in enumerate(F.normalize(corpus, dim=1))
             if j not in own[i] and (classes is None or classes[0][i] != classes[1][j] or classes[0][i] < 0)),
            reverse=True,
        )[window.ranks[0] - 1 : window.ranks[1]]  # fmt: skip
        kept = [
            j
            for s, j in ranked
            if window.scores[0] <= s <= window.scores[1]
            and (
                positive is None
                or (s <= positive[i] - window.margin and s <= positive[i] * (1 - window.relative_margin))
            )
        ]
        rows.append((kept + [-1] * k)[:k])
    return rows


@pytest.mark.parametrize("window", [
    Window(), Window(ranks=(3, 8)), Window(scores=(-0.2, 0.3)), Window(margin=0.2), Window(relative_margin=0.3),
    Window((2, 9), (-0.5, 0.8), 0.05, 0.1),
])  # fmt: skip
@pytest.mark.parametrize("with_positive", [True, False])
def test_negatives_are_those_of_the_plain_search(window, with_positive, monkeypatch):
    monkeypatch.setattr("repel.text.mining.BLOCK", 3)
    g = torch.Generator().manual_seed(0)
    queries, corpus = torch.randn(10, 4, generator=g), torch.randn(20, 4, generator=g)
    own = [[i, (i + 3) % 20] for i in range(10)]
    positive = torch.rand(10, generator=g) if with_positive else None
    classes = (torch.arange(10) % 4 - 1, torch.arange(20) % 4 - 1)  # -1: nobody knows
    for labels in (None, classes):
        found = mine(queries, corpus, own, positive, window, 4, classes=labels)
        assert found.places.tolist() == plain(queries, corpus, own, positive, window, 4, labels)


def test_random_negatives_are_of_the_window_and_the_same_each_time():
    g = torch.Generator().manual_seed(0)
    queries, corpus = torch.randn(6, 4, generator=g), torch.randn(40, 4, generator=g)
    own, window = [[i] for i in range(6)], Window(ranks=(1, 10))
    allowed = plain(queries, corpus, own, None, window, 10)
    a, b, c = (
        mine(queries, corpus, own, None, window, 3, torch.Generator().manual_seed(seed)).places.tolist()
        for seed in (1, 1, 2)
    )
    assert a == b != c
    assert all(set(row) <= set(of) and len(set(row)) == 3 for row, of in zip(a, allowed, strict=True))
