"""Figures of features: neighbors, a map, similarities."""

from collections.abc import Callable
from functools import partial

from repel.evaluation.class_names import numbered_names
from repel.evaluation.modality import Plot, Shown
from repel.evaluation.protocol import Part
from repel.evaluation.text_table import TextTable
from repel.report import plots

__all__ = ["feature_drawings", "shown_drawings"]

Drawing = tuple[str, Callable[[], Plot | None]]


def feature_drawings(
    train: Part, test: Part, classes: list[str], method: str | None, seed: int, noun: str | None = None
) -> list[Drawing]:
    """Neighbors, a map where a method is given, and similarities, of the test split's features.

    Args:
        noun: what they are of; None: the test split's samples.
    """
    modality = test.samples.modality
    whose, noun = noun or f"test {modality.noun}", noun or modality.noun

    def feature_map() -> Plot:
        figure = plots.map_figure(test.x, test.y, classes, method or "pca", seed, noun)
        return Plot("map", f"Map of the {whose}' features{numbered_names(classes)}", figure)

    def similarities() -> Plot:
        return Plot("similarities", "Similarities", plots.similarity_figure(test.x, test.y, noun))

    chosen = [("map", feature_map)] if method else []
    return [("neighbors", partial(_neighbors, train, test, classes)), *chosen, ("similarities", similarities)]


def shown_drawings(shown: Shown, method: str | None, seed: int) -> list[Drawing]:
    """The same of what a modality shows in place of the test split, after its own; where no labels are known, neighbors
    alone."""
    part, labelled = shown.part, shown.part.known()
    of_labels: list[Drawing] = []
    if len(labelled.y.unique()) > 1:
        of_labels = feature_drawings(labelled, labelled, shown.classes, method, seed, shown.noun)[1:]
    return [*shown.drawings, ("neighbors", partial(_neighbors, part, part, shown.classes)), *of_labels]


def _neighbors(train: Part, test: Part, classes: list[str]) -> Plot:
    plot = test.samples.modality.neighbor_plot(test, train, classes)
    drawn = not isinstance(plot.picture, TextTable)  # a table needs no font
    return plot._replace(caption=plot.caption + numbered_names(classes)) if drawn else plot
