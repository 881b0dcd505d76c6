"""Geometry of embeddings and numbers of negatives, by closed forms and by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_cases import batch

from repel.evaluation import geometry


def sphere(samples: int, dim: int) -> torch.Tensor:
    """Uniform on the sphere."""
    return F.normalize(torch.randn(samples, dim, generator=torch.Generator().manual_seed(3)), dim=1)


@pytest.mark.parametrize(("samples", "dim"), [(40, 8), (8, 40)])
def test_effective_rank_of_isotropic_embeddings_is_the_smaller_size(samples, dim):
    square = torch.linalg.qr(torch.randn(max(samples, dim), min(samples, dim), dtype=torch.float64)).Q
    x = square if samples > dim else square.T  # orthonormal: all singular values are 1
    assert geometry.effective_rank(x).item() == pytest.approx(8, abs=1e-6)


def test_effective_rank_of_gaussians_comes_close_to_their_dimensions():
    ranks = [geometry.effective_rank(torch.randn(n, 16)).item() for n in (32, 512, 20000)]
    assert ranks == sorted(ranks)
    assert 15.99 < ranks[-1] <= 16


def test_effective_rank_of_one_direction_is_one_and_of_nothing_zero():
    x = torch.randn(30, 1) * torch.randn(1, 12)
    assert geometry.effective_rank(x).item() == pytest.approx(1, abs=1e-4)
    assert geometry.effective_rank(torch.ones(30, 12)).item() == pytest.approx(1, abs=1e-4)
    assert geometry.effective_rank(torch.zeros(30, 12)).item() == 0


def test_effective_rank_of_known_singular_values():
    u, v = (torch.linalg.qr(torch.randn(n, 3, dtype=torch.float64)).Q for n in (20, 7))
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    expected = math.exp(-sum(float(q) * math.log(q) for q in p))
    for scale in (1e-6, 5.0, 1e6):  # no scale matters
        assert geometry.effective_rank(scale * (u * p) @ v.T).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dim", [16, 64, 512])
def test_uniformity_on_the_sphere(dim):
    """-4 + 8 / D for large D; exactly, log E e^{4 cos - 4} with E e^{k cos} by the von Mises-Fisher normaliser."""
    exact = -4 + math.log(sum(4.0 ** (2 * j) / math.prod((2 * i) * (dim + 2 * i - 2) for i in range(1, j + 1))
                              for j in range(30)))  # fmt: skip
    assert exact == pytest.approx(-4 + 8 / dim, abs=16 / dim**2)
    assert geometry.uniformity(sphere(3000, dim)).item() == pytest.approx(exact, abs=4e-3)


def test_collapsed_embeddings():
    z = torch.ones(2, 10, 4)
    assert geometry.alignment(z).item() == geometry.uniformity(z[0]).item() == 0
    assert geometry.deviation(z[0]).tolist() == [0, 0, 0, 0]
    assert geometry.dead_dimensions(z[0], 1e-3).item() == 1


def test_alignment_is_two_less_twice_the_cosine():
    z = batch(views=3)
    s = [F.cosine_similarity(z[a], z[b], dim=-1).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert geometry.alignment(z).item() == pytest.approx(float(2 - 2 * sum(s) / 3), rel=1e-12)
    assert geometry.alignment(torch.stack([z[0], -z[0]])).item() == pytest.approx(4)
    assert geometry.alignment(100 * z).item() == pytest.approx(geometry.alignment(z).item())


def test_deviation_on_the_sphere_is_one_per_dimension():
    assert geometry.deviation(sphere(20000, 8)).tolist() == pytest.approx([1] * 8, abs=0.02)


def test_dead_dimensions_at_every_scale():
    x = torch.randn(50, 4)
    x[:, 1], x[:, 2] = 7.0, 1e-5 * x[:, 0]
    for scale in (1e-8, 1.0, 1e8):
        assert geometry.dead_dimensions(scale * x, 1e-3).item() == 0.5


def test_tolerance_is_the_mean_cosine_within_classes():
    z, labels = sphere(7, 3), torch.tensor([0, 0, 1, -1, 1, 1, -1])
    pairs = [(0, 1), (2, 4), (2, 5), (4, 5)]
    assert geometry.tolerance(z, labels).item() == pytest.approx(sum(float(z[a] @ z[b]) for a, b in pairs) / 4)
    assert geometry.tolerance(z, torch.arange(7)).isnan()


def test_numbers_of_negatives():
    alike, one = torch.full((1, 50), 0.02), F.one_hot(torch.tensor([3]), 50).float()
    for count in (geometry.effective_number, geometry.effective_sample_size):
        assert count(alike).item() == pytest.approx(50, rel=1e-5)
        assert count(one).item() == 1
    half = torch.tensor([[0.5, 0.5, 0.0]])
    assert geometry.effective_number(half).item() == pytest.approx(2)
    assert geometry.shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]


def test_margins_and_the_hardest_share():
    positive, negative = torch.tensor([0.5, 0.9]), torch.tensor([[0.7, 0.2, 0.1], [0.99, 0.3, 0.6]])
    exists = torch.tensor([[True, True, True], [False, True, True]])
    assert geometry.margins(positive, negative, exists).tolist() == pytest.approx([-0.2, 0.3])
    share = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.4, 0.6]])
    of = lambda fraction: geometry.share_of_hardest(share, negative, exists, fraction).tolist()  # noqa: E731
    assert of(0.01) == pytest.approx([0.5, 0.6])
    assert of(0.5) == pytest.approx([0.8, 0.6])  # two of three, one of two
    assert of(1.0) == pytest.approx([1, 1])


def test_false_negatives_by_hand():
    mates = torch.tensor([[True, False, False], [True, False, True]])
    exists = torch.tensor([[True, True, True], [False, True, True]])
    negative = torch.tensor([[0.7, 0.2, 0.1], [0.9, 0.8, 0.6]])
    assert geometry.false_rate(mates, exists).item() == pytest.approx(2 / 5)
    assert geometry.hardest_false_rate(mates, negative, exists).item() == 0.5
    assert geometry.false_mass(torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.4, 0.6]]), mates).tolist() == pytest.approx(
        [0.5, 0.6]
    )
