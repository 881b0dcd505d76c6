"""What a report shows of texts besides numbers of their features."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from repel.data.samples import CompleteSplits, Samples, Splits, split_parts
from repel.evaluation.modality import Baseline, Plot
from repel.evaluation.protocol import Network, Part
from repel.evaluation.text_table import TextTable, on_one_line

__all__ = ["TEXTS", "TextModality"]


class TextModality:
    """TF-IDF and LSA as baselines, neighbors and views as tables of texts; see evaluation.modality.Modality."""

    noun = "texts"
    input_options = ("max_tokens",)
    sides: tuple[str, ...] = ()

    def view_pairs(self, data: Any, n: int) -> TextTable:
        from repel.text.figures import view_table

        return view_table(data, n)

    def baselines(self, train: Samples, val: Samples, bank: int | None) -> list[Baseline]:
        from repel.text.baselines import text_baselines

        return text_baselines(train, bank)

    def neighbor_plot(self, test: Part, train: Part, classes: Sequence[str]) -> Plot:
        from repel.text.figures import neighbor_table

        caption = "Test texts and their nearest training texts, by cosine; green: the query's class"
        return Plot("neighbours", caption, neighbor_table(test, train, classes))

    def shown(self, network: Network, splits: CompleteSplits) -> None:
        return None

    def thumbnails(self, samples: Samples, places: Tensor, side: int) -> None:
        return None

    def captions(self, samples: Samples, places: Tensor) -> dict[str, list[str]]:
        return {"text": [on_one_line(samples.text(place)) for place in places.tolist()]}  # type: ignore[attr-defined]

    def embedded(self, splits: Splits) -> tuple[dict[str, Samples], list[str]]:
        return split_parts(splits), splits.classes

    def columns(self, samples: Samples, split: str) -> dict[str, list[str]]:
        """The texts, and names where they have some."""
        texts: list[str] = samples.texts  # type: ignore[attr-defined]
        return {"text": texts} | ({} if samples.names is None else {"file": list(samples.names)})


TEXTS = TextModality()
