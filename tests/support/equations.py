"""The papers' equations, anchor by anchor, by brute force."""

import torch
import torch.nn.functional as F
from loss_cases import (
    batch,
    make,
)


def cosines(z, target=None):
    """Cosines of all embeddings, and for each its sample and view."""
    flat = F.normalize(z, dim=-1).flatten(0, 1)
    other = flat if target is None else F.normalize(target, dim=-1).flatten(0, 1)
    views, n, _ = z.shape
    return flat @ other.T, [i % n for i in range(views * n)], [i // n for i in range(views * n)]


def by_anchor(z, term, target=None):
    """Mean over anchors i and positives p of term(s_i, p, negatives)."""
    s, sample, view = cosines(z, target)
    terms = []
    for i in range(len(s)):
        positives = [j for j in range(len(s)) if sample[j] == sample[i] and view[j] != view[i]]
        negatives = [j for j in range(len(s)) if sample[j] != sample[i]]
        terms += [term(s[i], p, negatives, view, view[i]) for p in positives]
    return torch.stack(terms).mean()


EQUATIONS = {
    "ntxent": lambda s, p, n, view, v: -torch.log(s[p].div(0.2).exp() / (s[[p, *n]] / 0.2).exp().sum()),
    "infonce": lambda s, p, n, view, v: (
        -torch.log(s[p].div(0.2).exp() / (s[[p, *(j for j in n if view[j] != v)]] / 0.2).exp().sum())
    ),
    "decoupled": lambda s, p, n, view, v: -s[p] / 0.2 + torch.log((s[n] / 0.2).exp().sum()),
    "triplet": lambda s, p, n, view, v: (0.2 + s[n] - s[p]).relu().mean(),
    "margin_cosine": lambda s, p, n, view, v: (1 - s[p]) + (s[n] - 0.2).relu().mean(),
    "cosine_regression": lambda s, p, n, view, v: 0.5 * (s[p] - 1) ** 2 + 0.5 * (s[n] ** 2).mean(),
    "siglip": lambda s, p, n, view, v: (
        F.softplus(-(s[p] / 0.1 - 10)) + F.softplus(s[[j for j in n if view[j] != v]] / 0.1 - 10).sum()
    ),
    "multi_similarity": lambda s, p, n, view, v: (
        torch.log1p(torch.exp(-2 * (s[p] - 0.5))) / 2 + torch.log1p(torch.exp(50 * (s[n] - 0.5)).sum()) / 50
    ),
    "byol": lambda s, p, n, view, v: 2 - 2 * s[p],
}


def assert_equation(name: str) -> None:
    """A loss is the mean of its equation over all anchors."""
    views = (2,) if name == "multi_similarity" else (2, 3)  # it sums over an anchor's positives
    for v in views:
        torch.testing.assert_close(make(name)(batch(v)), by_anchor(batch(v), EQUATIONS[name]), rtol=1e-10, atol=0)
