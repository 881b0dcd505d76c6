"""Figures and tables of texts: nearest neighbors, views."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from repel.base import seeding
from repel.base.drawing import sheet_font
from repel.data.sampler import BatchIndices
from repel.data.views import ViewDraws
from repel.evaluation.class_names import drawn_name
from repel.evaluation.features import evenly_spaced
from repel.evaluation.knn import nearest_neighbors
from repel.evaluation.protocol import Part

__all__ = ["neighbor_figure", "view_table"]

QUERIES, NEIGHBORS = 10, 5
WIDTH, LINE, GAP, LETTERS = 900, 14, 8, 130  # pixels, but for the letters of a line


def neighbor_figure(queries: Part, bank: Part, classes: Sequence[str]) -> Image.Image:
    """For each of 10 queries its text, then its 5 nearest of the bank with cosine and class, most similar first.

    A neighbor is green where its class is the query's, and red elsewhere.

    Args:
        queries: of which 10 are shown, evenly spaced over the part sorted by class.
        bank: the texts that are searched.
        classes: their names.
    """
    chosen = queries.y.argsort(stable=True)[evenly_spaced(len(queries.y), QUERIES).to(queries.y.device)]
    similarity, nearest = nearest_neighbors(bank.x, queries.x[chosen], NEIGHBORS)
    lines: list[tuple[str, str]] = []
    for row, place in enumerate(chosen.tolist()):
        label = int(queries.y[place])
        lines.append((f"{drawn_name(classes, label)}: {queries.samples.text(place)}", "black"))  # type: ignore[attr-defined]
        for cosine, other in zip(similarity[row].tolist(), nearest[row].tolist(), strict=True):
            theirs = int(bank.y[other])
            words = f"      {cosine:.3f}  {drawn_name(classes, theirs)}: {bank.samples.text(other)}"  # type: ignore[attr-defined]
            lines.append((words, "green" if theirs == label else "firebrick"))
    sheet = Image.new("RGB", (WIDTH, len(lines) * LINE + (len(chosen) + 1) * GAP), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for words, color in lines:
        top += GAP * (color == "black")
        shown = words if len(words) <= LETTERS else words[: LETTERS - 3] + "..."
        draw.text((GAP, top), shown, color, sheet_font(shown, LINE - 3))
        top += LINE
    return sheet


def view_table(data: Any, n: int) -> str:
    """A table in Markdown: the first n texts of the first training batch and the tokens of their views."""
    texts, n = data.splits.train, min(n, data.batch_size, len(data.splits.train))
    places = next(iter(data.order(0)))[:n]
    draws = ViewDraws(data.views, data.seed, seeding.VIEWS, BatchIndices(0, 0, places, slice(0, n), data.batch_size))
    made = data.views.apply(texts.fetch(places, draws).x, draws.params())
    views = getattr(made, "views", made)
    library = texts.tokenizer.library
    rows = [f"| text | {' | '.join(f'view {v}' for v in range(len(views)))} |", "|---" * (1 + len(views)) + "|"]
    for row, place in enumerate(places.tolist()):
        cells = [" ".join(library.id_to_token(id - 1) for id in view[row].tolist() if id) for view in views]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (texts.text(place), *cells)) + " |")
    return "\n".join(rows)
