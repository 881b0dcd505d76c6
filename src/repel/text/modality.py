"""What a report shows of texts besides numbers of their features."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from repel.data.samples import Samples
from repel.evaluation.modality import Baseline, Plot
from repel.evaluation.protocol import Part

__all__ = ["TEXTS", "TextModality"]


class TextModality:
    """TF-IDF and LSA as baselines, neighbors and views as tables of texts; see evaluation.modality.Modality."""

    noun = "texts"

    def view_pairs(self, data: Any, n: int) -> str:
        from repel.text.figures import view_table

        return view_table(data, n)

    def baselines(self, train: Samples, bank: int | None) -> list[Baseline]:
        from repel.text.baselines import text_baselines

        return text_baselines(train, bank)

    def neighbor_plot(self, test: Part, train: Part, classes: Sequence[str]) -> Plot:
        from repel.text.figures import neighbor_figure

        caption = "Test texts and their nearest training texts, by cosine; green: the query's class"
        return Plot("neighbours", caption, neighbor_figure(test, train, classes))

    def thumbnails(self, samples: Samples, places: Tensor, side: int) -> None:
        return None


TEXTS = TextModality()
