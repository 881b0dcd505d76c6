"""Figures of the report: maps and sheets."""

import pytest
import torch

from repel.evaluation.protocol import Part
from repel.images import figures
from repel.images.memory import Images
from repel.report import plots


def test_a_map_by_principal_components():
    x = torch.randn(50, 1, dtype=torch.float64) * torch.tensor([[3.0, 0, 0]]) + torch.tensor([[0.0, 5, 0]])
    points = plots.project_to_plane(x, "pca", 0)
    unit = torch.nn.functional.normalize(x, dim=1)
    centred = unit - unit.mean(0)
    assert points.shape == (50, 2)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(centred, centred), atol=1e-6, rtol=0)
    torch.testing.assert_close(points, plots.project_to_plane(x, "pca", 0))


def test_a_map_by_tsne_keeps_clusters_together():
    y = torch.arange(60) % 3
    points = plots.project_to_plane(torch.eye(3)[y] + 0.05 * torch.randn(60, 3), "tsne", 0)
    means = torch.stack([points[y == label].mean(0) for label in range(3)])
    assert torch.equal(torch.cdist(points, means).argmin(1), y)


def test_a_sheet_of_neighbours():
    y = torch.arange(30) % 3
    shown = Images(torch.full((30, 1, 8, 8), 0, dtype=torch.uint8) + (80 * y).byte()[:, None, None, None], y)
    x = torch.eye(3)[y] + 0.01 * torch.randn(30, 3)
    sheet = figures.neighbor_sheet(Part(x, y, shown), Part(x, y, shown), ["a", "b", "c"])
    row = figures.CELL + 2 * figures.LINE + figures.GAP
    assert sheet.height == 12 * row + figures.GAP
    middle = [sheet.getpixel((figures.GAP + figures.CELL // 2, figures.GAP + i * row + 20)) for i in range(12)]
    assert sorted({p[0] for p in middle}) == [0, 80, 160]
    for i in range(12):  # all ten neighbours are of the query's class: the same gray
        for j in range(1, 11):
            left = figures.GAP + j * (figures.CELL + figures.GAP) + 2 * figures.GAP
            assert sheet.getpixel((left + 30, figures.GAP + i * row + 20)) == middle[i]


@pytest.mark.parametrize(
    "name", ["cat", "a name of a class that goes on and on, and on, for longer than anybody reads"]
)
def test_a_map_has_its_whole_legend_beside_it(name):
    y = torch.arange(60) % 20
    figure = plots.map_figure(torch.randn(60, 5), y, [f"{n} {name}" for n in range(20)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    made, panel = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert panel.x1 <= made.x0
    assert made.x1 <= figure.bbox.x1 + 1
    assert made.y0 >= -1
    assert made.y1 <= figure.bbox.y1 + 1
    assert panel.width > 0.5 * panel.height > 200
