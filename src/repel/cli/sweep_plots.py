"""Figures of a sweep's report: a panel for each set of data, as values on different data do not compare."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repel.base.drawing import legend, wrapped, write_literally
from repel.cli import compare, paired
from repel.cli.compare import Cell
from repel.monitoring.objective import CHOOSING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bars_figure", "curves_figure", "draw_bars", "draw_curves"]

LABEL, TITLE, SMALL = 44, 60, 8  # characters in a line of a row's label, and of a panel's title; points of small print
DPI = 120
BANDS = 8  # curves at most for bands around them, which would hide one another
COLORS = 10  # of matplotlib's cycle; more curves take a color map and other dashes


def draw_bars(cells: list[Cell], metrics: list[str], known: list[str], path: Path) -> None:
    bars_figure(cells, metrics, known).savefig(path, dpi=DPI)


def bars_figure(cells: list[Cell], metrics: list[str], known: list[str]) -> "Figure":
    """A panel per metric and set of data: bars are means, whiskers deviations, dots seeds, strokes baselines."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    groups = _by_data(cells)
    lines = max(len(wrapped(cell.name, LABEL)) for cell in cells)
    rows = [len(members) * (0.12 + 0.17 * lines) + 0.8 for members in groups.values()]  # inches
    width = 1 + 0.075 * max(len(line) for cell in cells for line in wrapped(cell.name, LABEL)) + 4.5 * len(metrics)
    baselines = {metric: compare.baselines_of(metric, known) for metric in metrics}
    names = list(dict.fromkeys(name for of_metric in baselines.values() for name in of_metric))
    columns = max(1, int(width / 2.8))  # of the legend
    figure = Figure(figsize=(width, sum(rows) + 0.9 + 0.2 * -(-len(names) // columns)), layout="constrained")
    grid = {"height_ratios": rows}
    panels = figure.subplots(len(groups), len(metrics), squeeze=False, gridspec_kw=grid)
    for row, (data, members) in zip(panels, groups.items(), strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            draw_bars_of(panel, members, metric, baselines[metric])
            if panel is not row[0]:
                panel.set_yticks([])
        if len(groups) > 1:
            write_literally(row[0].set_title("-", loc="left", fontsize=SMALL + 1), data, TITLE * len(metrics))
    place = {name: of_metric.index(name) for of_metric in baselines.values() for name in of_metric}
    if names:
        handles = [Line2D([], [], color=f"C{1 + place[name]}", linewidth=2.5) for name in names]
        legend(figure, handles, names, loc="outside upper left", ncols=columns, fontsize=SMALL, frameon=False)
    words = "Bars: means. Whiskers: standard deviations over seeds. Dots: seeds."
    words += " Strokes: means of the row's own baselines." * bool(names)
    figure.supxlabel("\n".join(wrapped(words, int(14 * width))), fontsize=SMALL)
    return figure


def draw_bars_of(panel: Any, cells: list[Cell], metric: str, baselines: list[str]) -> None:
    """Values that are not finite have no place on the axis: their dots are left out, and the bar of their mean."""
    every = []
    for place, cell in enumerate(cells):
        values = list(cell.values(metric).values())
        every += (finite := [value for value in values if math.isfinite(value)])
        if finite:
            panel.plot(finite, [place] * len(finite), "o", color="black", markersize=3)
        if finite == values != []:
            mean, std = paired.mean_std(values)
            every += [mean - (std or 0), mean + (std or 0)]
            panel.barh(place, mean, xerr=std, height=0.6, color="tab:blue", alpha=0.5, capsize=3)
        for number, name in enumerate(baselines):
            own = [value for value in cell.values(name).values() if math.isfinite(value)]
            every += (mean_of_own := [paired.mean_std(own)[0]] if own else [])
            panel.plot(
                mean_of_own * 2,
                [place - 0.4, place + 0.4] * len(mean_of_own),
                f"C{number + 1}-",
                linewidth=2.5,
                zorder=1.5,
            )
    labels = ["\n".join(wrapped(cell.name, LABEL)) for cell in cells]  # which the axis writes again when it is drawn
    panel.set_yticks(range(len(cells)), labels, fontsize=SMALL + 1)
    for label, cell in zip(panel.get_yticklabels(), cells, strict=True):
        write_literally(label, cell.name, LABEL)
    panel.set_ylim(len(cells) - 0.4, -0.6)
    panel.set_xlabel(metric, fontsize=SMALL + 1)
    panel.grid(axis="x", alpha=0.3)
    panel.tick_params(axis="x", labelsize=SMALL)
    panel.locator_params(axis="x", nbins=6)
    if every:
        _fit_axis(panel, metric, min(every), max(every))


def _fit_axis(panel: Any, metric: str, low: float, high: float) -> None:
    """From 0, or from nearer to the values where those are far from it and positive; the label says so."""
    room = 0.05 * (high - low) + 1e-3
    if low <= 0:
        panel.set_xlim(low - room, max(high, 0) + room)
        return
    left = max(0.0, low - 0.5 * (high - low) - 1e-3)
    panel.set_xlim(left, high + room)
    if left:
        panel.set_xlabel(f"{metric}, axis from {left:.3g}", fontsize=SMALL + 1)


def draw_curves(cells: list[Cell], metric: str, path: Path) -> None:
    curves_figure(cells, metric).savefig(path, dpi=DPI)


def curves_figure(cells: list[Cell], metric: str) -> "Figure":
    """The validation metric by epoch: the mean over each cell's seeds, in a band of ± one standard deviation."""
    from matplotlib.figure import Figure

    for column in dict.fromkeys([f"val/{metric.rsplit('/', 1)[-1]}", *CHOOSING, "val/loss"]):
        curves = {cell.name: points for cell in cells if (points := compare.curve(cell, column))}
        if curves:
            break
    groups = {data: [c for c in members if c.name in curves] for data, members in _by_data(cells).items()}
    groups = {data: members for data, members in groups.items() if members} or {"": []}
    lines = {data: sum(len(wrapped(cell.name, LABEL)) for cell in members) for data, members in groups.items()}
    rows = [max(4.0, 0.16 * number + 0.8) for number in lines.values()]
    longest = max((len(line) for name in curves for line in wrapped(name, LABEL)), default=0)
    figure = Figure(figsize=(7.5 + 0.075 * longest, sum(rows) + 0.4), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for panel, (data, members) in zip(panels, groups.items(), strict=True):
        draw_curves_of(panel, {cell.name: curves[cell.name] for cell in members}, column)
        if len(groups) > 1:
            write_literally(panel.set_title("-", loc="left", fontsize=SMALL + 1), data, TITLE)
    few = all(len(members) <= BANDS for members in groups.values())
    words = f"Means over seeds{', in bands of ± one standard deviation' * few}. Legends: highest at the end first."
    figure.supxlabel(words, fontsize=SMALL)
    return figure


def draw_curves_of(panel: Any, curves: Mapping[str, dict[int, list[float]]], column: str) -> None:
    from matplotlib import colormaps, ticker

    handles: dict[str, Any] = {}
    last: dict[str, float] = {}
    for number, (name, points) in enumerate(curves.items()):
        epochs, summary = list(points), [paired.mean_std(values) for values in points.values()]
        color = f"C{number}" if len(curves) <= COLORS else colormaps["turbo"](number / (len(curves) - 1))
        means, style = [mean for mean, _ in summary], ("-", "--", ":", "-.")[number % 4 if len(curves) > COLORS else 0]
        handles[name] = panel.plot(
            epochs, means, color=color, linestyle=style, marker="." if len(means) == 1 else None
        )[0]
        last[name] = means[-1] if math.isfinite(means[-1]) else -math.inf
        stds = [std for _, std in summary if std is not None]
        if len(stds) == len(summary) and len(curves) <= BANDS:
            low, high = ([mean + sign * std for (mean, _), std in zip(summary, stds, strict=True)] for sign in (-1, 1))
            panel.fill_between(epochs, low, high, color=color, alpha=0.2)
    panel.set_xlabel("epoch", fontsize=SMALL + 1)
    panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    panel.set_ylabel(column)
    panel.grid(alpha=0.3)
    names = sorted(handles, key=lambda name: -last[name])
    if names:
        options = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": SMALL, "frameon": False}
        legend(panel, [handles[name] for name in names], names, LABEL, **options)


def _by_data(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.data, []).append(cell)
    return groups
