"""Figures of a sweep's report."""

import math
from pathlib import Path
from typing import Any

from repel.base.drawing import legend, write_literally
from repel.cli import compare
from repel.cli.compare import Cell

__all__ = ["draw_bars", "draw_curves"]


def draw_bars(cells: list[Cell], metrics: list[str], known: list[str], path: Path) -> None:
    """One panel per metric: bars are means, whiskers standard deviations, dots seeds, lines the means of baselines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (7 * len(metrics), 1.5 + 0.4 * len(cells))
    figure, panels = pyplot.subplots(1, len(metrics), figsize=size, squeeze=False, layout="constrained")
    for panel, metric in zip(panels[0], metrics, strict=True):
        draw_bars_of(panel, cells, metric, compare.baselines_of(metric, known))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_bars_of(panel: Any, cells: list[Cell], metric: str, baselines: list[str]) -> None:
    """Values that are not finite have no place on the axis: their dots are left out, and the bar of their mean."""
    every = []
    for place, cell in enumerate(cells):
        values = list(cell.values(metric).values())
        every += (finite := [value for value in values if math.isfinite(value)])
        if finite:
            panel.plot(finite, [place] * len(finite), "o", color="black", markersize=3)
        if finite == values != []:
            mean, std = compare.mean_std(values)
            panel.barh(place, mean, xerr=std, height=0.6, color="tab:blue", alpha=0.5, capsize=3)
    for number, name in enumerate(baselines):
        pooled = [v for cell in cells for v in cell.values(name).values() if math.isfinite(v)]
        every += pooled
        if pooled:
            panel.axvline(compare.mean_std(pooled)[0], color=f"C{number + 1}", linestyle="--", label=name)
    panel.set_yticks(range(len(cells)), [cell.name for cell in cells])
    for label, cell in zip(panel.get_yticklabels(), cells, strict=True):
        write_literally(label, cell.name)
    panel.invert_yaxis()
    panel.set_xlabel(f"{metric}, mean and standard deviation over seeds")
    if every and min(every) > 0:
        left = max(0.0, min(every) - 0.5 * (max(every) - min(every)) - 1e-3)
        panel.set_xlim(left=left)
        panel.set_xlabel(f"{metric}, mean and standard deviation over seeds; axis from {left:.3g}")
    if panel.get_legend_handles_labels()[1]:
        panel.legend(fontsize="small")


def draw_curves(cells: list[Cell], metric: str, path: Path) -> None:
    """The validation metric by epoch: the mean over each cell's seeds, in a band of ± one standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, panel = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    tried = dict.fromkeys([f"val/{metric.rsplit('/', 1)[-1]}", "val/knn_top1", "val/loss"])
    for column in tried:
        curves = {cell.name: points for cell in cells if (points := compare.curve(cell, column))}
        if curves:
            break
    handles = []
    for points in curves.values():
        epochs, summary = list(points), [compare.mean_std(values) for values in points.values()]
        (line,) = panel.plot(epochs, [mean for mean, _ in summary])
        handles.append(line)
        stds = [std for _, std in summary if std is not None]
        if len(stds) == len(summary):
            low, high = ([mean + sign * std for (mean, _), std in zip(summary, stds, strict=True)] for sign in (-1, 1))
            panel.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2)
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    panel.set_ylabel(column)
    if curves:
        legend(panel, handles, list(curves), fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
