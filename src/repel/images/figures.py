"""Figures of images: a sheet of nearest neighbors, thumbnails."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from repel.base.drawing import sheet_font, wrapped
from repel.data.samples import Samples
from repel.evaluation.class_names import drawn_name
from repel.evaluation.features import BATCH, evenly_spaced
from repel.evaluation.knn import nearest_neighbors
from repel.evaluation.protocol import Part
from repel.images.contact_sheet import GAP, picture

__all__ = ["neighbor_sheet", "thumbnails"]

CELL, LINE = 64, 11  # pixels: a picture's side, and a line of text
QUERIES, NEIGHBORS = 12, 10
LETTERS, MOST = 11, 3  # in a line of a class's name; such lines


def neighbor_sheet(queries: Part, bank: Part, classes: Sequence[str]) -> Image.Image:
    """A row for each of 12 queries: the image, then its 10 nearest of the bank with their cosine, most similar first.

    The name of a neighbor's class is green where it is the query's class, and red elsewhere.

    Args:
        queries: of which 12 are shown, evenly spaced over the part sorted by class.
        bank: the images that are searched.
        classes: their names.
    """
    chosen = queries.y.argsort(stable=True)[evenly_spaced(len(queries.y), QUERIES).to(queries.y.device)]
    similarity, nearest = nearest_neighbors(bank.x, queries.x[chosen], NEIGHBORS)
    shown = {label for part in (queries.y[chosen], bank.y[nearest]) for label in part.flatten().tolist()}
    lines = {label: _name_lines(drawn_name(classes, label)) for label in shown}
    tall = max(map(len, lines.values()))  # lines that a name takes
    row, columns = CELL + (tall + 1) * LINE + GAP, 1 + nearest.shape[1]
    sheet = Image.new("RGB", (columns * (CELL + GAP) + 3 * GAP, len(chosen) * row + GAP), "white")
    draw = ImageDraw.Draw(sheet)

    def paste(pixels: Tensor, column: int, top: int, label: int, number: str, color: str) -> None:
        left = GAP + column * (CELL + GAP) + (2 * GAP if column else 0)
        sheet.paste(picture(pixels, CELL), (left, top))
        for line, words in enumerate(lines[label]):
            draw.text((left, top + CELL + line * LINE), words, color, sheet_font(words, LINE - 1))
        draw.text((left, top + CELL + tall * LINE), number, "black", sheet_font(number, LINE - 1))

    query_pixels = _pixels(queries.samples, chosen)
    for i, label in enumerate(queries.y[chosen].tolist()):
        top = GAP + i * row
        paste(query_pixels[i], 0, top, label, "query", "black")
        labels = bank.y[nearest[i]].tolist()
        for j, (pixels, other) in enumerate(zip(_pixels(bank.samples, nearest[i]), labels, strict=True)):
            color = "green" if other == label else "firebrick"
            paste(pixels, 1 + j, top, other, f"{float(similarity[i, j]):.3f}", color)
    return sheet


def _name_lines(name: str) -> list[str]:
    """A class's name under a picture; a very long one ends in dots."""
    lines = wrapped(name.replace("_", "_ "), LETTERS)
    lines = [line.replace("_ ", "_") for line in lines]
    return lines if len(lines) <= MOST else [*lines[: MOST - 1], lines[MOST - 1][: LETTERS - 2] + "..."]


def thumbnails(images: Samples, places: Tensor, side: int) -> Tensor:
    """(n, 3, s, s) floats in [0, 1], s at most `side`, in the images' proportions, on white.

    TensorBoard draws every picture as a square.
    """
    pixels = torch.cat(list(_small(images, places, side)))
    height, width = pixels.shape[2:]
    high, wide = max(height, width) - height, max(height, width) - width
    around = [wide // 2, wide - wide // 2, high // 2, high - high // 2]
    return F.pad(pixels, around, value=1.0).expand(-1, 3, -1, -1)


def _small(images: Samples, places: Tensor, side: int) -> Iterator[Tensor]:
    """In batches: thirty thousand images at full size need not fit into memory."""
    for batch, _ in images.plain(list(places.cpu().split(BATCH))):
        pixels = batch.float() / 255
        height, width = pixels.shape[2:]
        if (longer := max(height, width)) > side:
            high, wide = (max(1, round(n * side / longer)) for n in (height, width))
            pixels = F.adaptive_avg_pool2d(pixels, (high, wide))
        yield pixels


def _pixels(images: Samples, places: Tensor) -> Tensor:
    """(n, C, H, W) uint8 of the images at these places."""
    return next(iter(images.plain([places.cpu()])))[0]
