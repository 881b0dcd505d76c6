"""What can be looked at: neighbours, a map, curves, strengths of corruptions: pictures, no numbers."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from repel.evaluation.knn import neighbours
from repel.images.contact_sheet import GAP, picture
from repel.images.encoded import Encoded
from repel.images.memory import Images

CELL, LINE = 64, 11  # pixels: a picture's side, and a line of text
QUERIES, NEIGHBOURS = 12, 10
MAP_POINTS = 2000  # t-SNE of more takes minutes


def pixels_of(images: Images | Encoded, places: Tensor) -> Tensor:
    """(n, C, H, W) uint8 of the images at these places."""
    return next(iter(images.plain([places.cpu()])))[0]


def evenly(total: int, limit: int) -> Tensor:
    """At most so many places, evenly spaced."""
    return torch.arange(min(total, limit)) * total // max(1, min(total, limit))


def neighbour_sheet(
    queries: tuple[Tensor, Tensor, Images | Encoded],
    bank: tuple[Tensor, Tensor, Images | Encoded],
    classes: Sequence[str],
) -> Image.Image:
    """A row for each of some queries: the image, then its 10 nearest of the bank with their cosine, most similar first.

    Green names are the query's class, red ones others.

    Args:
        queries, bank: features (N, F), labels (N,) and images; the queries are evenly spaced over theirs, by class.
        classes: their names.
    """
    x, y, images = queries
    chosen = y.argsort(stable=True)[evenly(len(y), QUERIES).to(y.device)]
    similarity, nearest = neighbours(bank[0], x[chosen], NEIGHBOURS)
    row, columns = CELL + 2 * LINE + GAP, 1 + nearest.shape[1]
    sheet = Image.new("RGB", (columns * (CELL + GAP) + 3 * GAP, len(chosen) * row + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 1)

    def place(pixels: Tensor, column: int, top: int, words: str, number: str, colour: str) -> None:
        left = GAP + column * (CELL + GAP) + (2 * GAP if column else 0)
        sheet.paste(picture(pixels).resize((CELL, CELL)), (left, top))
        draw.text((left, top + CELL), words[:11], colour, font)
        draw.text((left, top + CELL + LINE), number, "black", font)

    shown = pixels_of(images, chosen)
    for i, label in enumerate(y[chosen].tolist()):
        top = GAP + i * row
        place(shown[i], 0, top, name(classes, label), "query", "black")
        labels = bank[1][nearest[i]].tolist()
        for j, (image, other) in enumerate(zip(pixels_of(bank[2], nearest[i]), labels, strict=True)):
            colour = "green" if other == label else "firebrick"
            place(image, 1 + j, top, name(classes, other), f"{float(similarity[i, j]):.3f}", colour)
    return sheet


def name(classes: Sequence[str], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)


def plane(x: Tensor, method: str, seed: int) -> Tensor:
    """Unit features (N, F) -> places in the plane (N, 2): principal components, or scikit-learn's t-SNE by cosine.

    van der Maaten, Hinton 2008, JMLR 9.
    """
    x = F.normalize(x.double().cpu(), dim=1)
    if method == "tsne" and len(x) > 3:  # of fewer there is no map to learn
        from sklearn.manifold import TSNE

        perplexity = min(30.0, max(2.0, (len(x) - 1) / 3))
        points = TSNE(metric="cosine", perplexity=perplexity, init="pca", random_state=seed).fit_transform(x.numpy())
        return torch.from_numpy(points)
    centred = x - x.mean(0)
    _, _, v = torch.linalg.svd(centred, full_matrices=False)
    axes = v[: min(2, len(v))]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # a component's sign means nothing: fix it
    return F.pad(centred @ axes.T, (0, 2 - len(axes)))


def map_figure(x: Tensor, y: Tensor, classes: Sequence[str], method: str, seed: int) -> Figure:
    """A 2-D map of features (N, F), coloured by label (N,)."""
    few = evenly(len(x), MAP_POINTS).to(x.device)
    points, labels = plane(x[few], method, seed), y[few].cpu()
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10" if int(labels.max()) < 10 else "turbo"]
    for n, label in enumerate(labels.unique().tolist()):
        here, total = labels == label, max(10, int(labels.max()) + 1)
        colour = colours(n if total == 10 else label / total)
        axes.scatter(*points[here].T, s=7, color=colour, linewidths=0, alpha=0.8, label=name(classes, label))
    if len(labels.unique()) <= 20:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2, fontsize=8)
    axes.set(xticks=[], yticks=[], title=f"{len(few):,} images, {'t-SNE' if method == 'tsne' else 'PCA'}")
    return figure


def similarity_figure(x: Tensor, y: Tensor) -> Figure:
    """Histograms of cosines between features (N, F) of one label and of different labels."""
    few = evenly(len(x), MAP_POINTS).to(x.device)
    x, y = F.normalize(x[few], dim=1), y[few]
    upper = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    cosine, same = (x @ x.T)[upper].cpu(), (y[:, None] == y)[upper].cpu()
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for values, words in ((cosine[same], "same class"), (cosine[~same], "different classes")):
        if len(values):
            axes.hist(values.numpy(), bins=100, range=(-1, 1), density=True, alpha=0.6, label=words)
    axes.set(xlabel="cosine of two images' features", ylabel="density")
    axes.legend(frameon=False)
    return figure


def corruption_figure(records: Sequence[dict[str, Any]]) -> Figure | None:
    """Accuracy against strength, a panel for each corruption, a line for each row of the table; None without them."""
    found: dict[str, dict[str, list[float]]] = {}
    for r in records:
        if "by_strength" in r["settings"]:
            found.setdefault(r["words"], {})[f"{r['row']}, {r['layer']}"] = r["settings"]["by_strength"]
    if not found:
        return None
    figure = Figure(figsize=(2.6 * len(found), 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (words, lines) in zip(panels, found.items(), strict=True):
        for row, values in lines.items():
            axes.plot(range(1, 6), values, marker="o", markersize=3, label=row)
        axes.set(title=words.rsplit(", ", 1)[-1], xlabel="strength", xticks=range(1, 6))
    panels[0].set(ylabel="kNN top-1")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    return figure


def curves_figure(history: Path, names: Sequence[str]) -> Figure | None:
    """Metrics against steps, of a run's metrics.csv; None where it has none of them."""
    if not history.is_file():
        return None
    with history.open(newline="") as file:
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


def png(drawn: Figure | Image.Image) -> bytes:
    buffer = io.BytesIO()
    if isinstance(drawn, Figure):
        drawn.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    else:
        drawn.save(buffer, format="png")
    return buffer.getvalue()


def thumbnails(images: Images | Encoded, places: Tensor, side: int) -> Tensor:
    """(n, 3, s, s) floats in [0, 1], at most side pixels, for TensorBoard's projector."""
    pixels = pixels_of(images, places).float() / 255
    if pixels.shape[-1] > side:
        pixels = F.adaptive_avg_pool2d(pixels, side)
    return pixels.expand(-1, 3, -1, -1)


def array(drawn: Figure | Image.Image) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.array(Image.open(io.BytesIO(png(drawn))).convert("RGB"))
