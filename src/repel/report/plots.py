"""Figures of any report: a map of the features, their similarities, training curves."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from repel.base.drawing import attempt, legend, wrapped
from repel.evaluation.class_names import drawn_name
from repel.evaluation.features import evenly_spaced
from repel.evaluation.modality import Plot
from repel.evaluation.stored_features import Features
from repel.evaluation.text_table import TextTable

__all__ = ["curves_figure", "draw", "map_figure", "png", "rgb_array", "similarity_figure"]

DPI = 110
MAP_POINTS = 2000  # t-SNE of more takes minutes
NAMED, LETTERS = 20, 36  # classes in a legend at most; letters in its lines


def project_to_plane(x: Tensor, method: str, seed: int) -> Tensor:
    """Unit features (N, F) -> points (N, 2): principal components ("pca"), or t-SNE by cosine ("tsne").

    van der Maaten, Hinton 2008, JMLR 9.
    """
    x = F.normalize(x.double().cpu(), dim=1)
    if method == "tsne" and len(x) > 3:  # t-SNE needs more points than that
        from sklearn.manifold import TSNE

        perplexity = min(30.0, max(2.0, (len(x) - 1) / 3))
        points = TSNE(metric="cosine", perplexity=perplexity, init="pca", random_state=seed).fit_transform(x.numpy())
        return torch.from_numpy(points)
    centered = x - x.mean(0)
    _, _, v = torch.linalg.svd(centered, full_matrices=False)
    axes = v[: min(2, len(v))]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # a component's sign means nothing: fix it
    return F.pad(centered @ axes.T, (0, 2 - len(axes)))


def map_figure(
    x: Features, y: Tensor, classes: Sequence[str], method: str = "pca", seed: int = 0, noun: str = "images"
) -> Figure:
    """A map of features (N, F) in the plane, colored by label (N,); at most 2000 of them.

    Args:
        method: pca or tsne.
        seed: of t-SNE.
        noun: what the samples are.
    """
    places = evenly_spaced(len(x), MAP_POINTS).to(x.device)
    points, labels = project_to_plane(x[places], method, seed), y[places].cpu()
    names = [drawn_name(classes, label) for label in labels.unique().tolist()]
    lines = [line for name in names for line in wrapped(name, LETTERS)] if len(names) <= NAMED else []
    size = (5.7 + 0.07 * max(map(len, lines), default=0), max(5.5, 0.17 * len(lines) + 0.7))  # inches
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.colormaps["tab10" if int(labels.max()) < 10 else "turbo"]
    total = max(10, int(labels.max()) + 1)
    handles = []
    for n, label in enumerate(labels.unique().tolist()):
        here = labels == label
        color = colors(n if total == 10 else label / total)
        handles.append(axes.scatter(points[here, 0], points[here, 1], s=7, color=color, linewidths=0, alpha=0.8))
    if lines:
        options = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False, "markerscale": 2, "fontsize": 8}
        legend(axes, handles, names, LETTERS, **options)
    way = "t-SNE" if method == "tsne" else "PCA"
    axes.set(xticks=[], yticks=[], title=f"{len(places):,} {noun} of {len(names)} classes, {way}")
    return figure


def similarity_figure(x: Features, y: Tensor, noun: str = "images") -> Figure:
    """Histograms of cosines between features (N, F) of the same label and of different labels (N,)."""
    places = evenly_spaced(len(x), MAP_POINTS).to(x.device)
    unit, y = F.normalize(x[places], dim=1), y[places]
    upper = torch.ones(len(unit), len(unit), dtype=torch.bool, device=x.device).triu(1)
    cosine, same = (unit @ unit.T)[upper].cpu(), (y[:, None] == y)[upper].cpu()
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for values, label in ((cosine[same], "same class"), (cosine[~same], "different classes")):
        if len(values):
            axes.hist(
                values.numpy(), bins=100, range=(-1, 1), density=True, alpha=0.6, label=label, histtype="stepfilled"
            )  # one shape to draw, where bars are a hundred
    axes.set(xlabel=f"cosine of two {noun}' features", ylabel="density")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def curves_figure(history: Path, names: Sequence[str]) -> Figure | None:
    """Metrics of a run's metrics.csv against steps; None where it has none of these names."""
    if not history.is_file():
        return None
    with history.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = {n: [(int(r["step"]), float(r[n])) for r in rows if r.get(n)] for n in names}
    lines = {n: points for n, points in lines.items() if points}
    if not lines:
        return None
    figure = Figure(figsize=(3.4 * len(lines), 2.8), layout="constrained")
    for axes, (metric, points) in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True):
        axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set(title=metric, xlabel="step")
    return figure


def draw(what: str, make: Callable[[], Plot | None]) -> Plot | None:
    """A plot, drawn to its last pixel, which is when matplotlib meets what it cannot draw; None where that fails.

    Tables stay tables.
    """

    def drawn() -> Plot | None:
        plot = make()
        if plot is None or isinstance(plot.picture, TextTable):
            return plot
        return plot._replace(picture=_image(plot.picture))

    return attempt(f"the figure {what}", drawn)


def _image(picture: Figure | Image.Image) -> Image.Image:
    """A figure's pixels, drawn once: savefig draws it a second time, to find out its size."""
    if isinstance(picture, Image.Image):
        return picture
    picture.set_dpi(DPI)
    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba()))


def png(picture: Figure | Image.Image) -> bytes:
    """The contents of a PNG file."""
    buffer = io.BytesIO()
    _image(picture).save(buffer, format="png")
    return buffer.getvalue()


def rgb_array(picture: Figure | Image.Image) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.array(_image(picture).convert("RGB"))
