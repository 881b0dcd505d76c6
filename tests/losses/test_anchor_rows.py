"""The rows that anchors, their positives and their own negatives are taken from, by slices and by indices."""

import pytest
import torch

from repel.losses import InfoNCE, NTXent
from repel.losses.anchor_groups import own_block
from repel.losses.base import Batch

V, N, M, D = 2, 6, 3, 4


@pytest.mark.parametrize("local", [slice(None), slice(2, 5), slice(None, None, 2)])
@pytest.mark.parametrize(("symmetric", "candidates"), [(True, "all"), (True, "cross"), (False, "cross")])
@pytest.mark.parametrize("views", [2, 3])
def test_anchors_and_positives_are_the_rows_that_views_and_samples_name(local, symmetric, candidates, views):
    draws = torch.Generator().manual_seed(1)
    z = torch.randn(views, N, D, generator=draws, dtype=torch.float64, requires_grad=True)
    loss, seen = NTXent(symmetric=symmetric, candidates=candidates), []
    loss.per_anchor = lambda block, positives, keys: seen.append((block, keys)) or positives.mean(1)
    loss(z, local=local)
    unit = torch.nn.functional.normalize(z.detach(), dim=-1)
    samples = range(N)[local]
    anchors = [(v, n) for v in range(views if symmetric else 1) for n in samples]
    others = [[(u, n) for u in range(views) if u != v] for v, n in anchors]
    rows, keys = (torch.cat(parts) for parts in zip(*((block.anchors, k) for block, k in seen), strict=True))
    assert torch.equal(rows, torch.stack([unit[place] for place in anchors]))
    assert torch.equal(keys, torch.stack([torch.stack([unit[place] for place in row]) for row in others]))
    views_and_samples = [
        (int(v), int(n)) for block, _ in seen for v, n in zip(block.row_views, block.row_samples, strict=True)
    ]
    assert views_and_samples == anchors


@pytest.mark.parametrize("local", [slice(None), slice(2, 5)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_own_negatives_are_those_of_the_anchors_sample(local, symmetric):
    draws = torch.Generator().manual_seed(1)
    z, negatives = (torch.randn(n, N, D, generator=draws, dtype=torch.float64, requires_grad=True) for n in (V, M))
    shown = torch.arange(N)[None] + torch.arange(M)[:, None]  # the first of each shows the anchor's own entity
    loss = InfoNCE(symmetric=symmetric, candidates="all")
    batch = Batch(z, z, None, torch.arange(N).expand(V, N), local, negatives=negatives, negative_ids=shown)
    (group,) = loss.anchor_groups(batch)
    block, positives = own_block(group, negatives, shown, local)
    anchors = [(v, n) for v in range(V if symmetric else 1) for n in range(N)[local]]
    expected = torch.stack([torch.stack([z[v, n] @ negatives[m, n] for m in range(M)]) for v, n in anchors]) / 0.2
    torch.testing.assert_close(block.logits, expected, rtol=1e-12, atol=1e-12)
    assert block.negative.tolist() == [[False, True, True]] * len(anchors)
    direction = torch.randn(expected.shape, generator=draws, dtype=torch.float64)
    found, wanted = (torch.autograd.grad((x * direction).sum(), (z, negatives)) for x in (block.logits, expected))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert len(positives) == len(anchors)
