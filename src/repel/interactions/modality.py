"""What a report shows of users and items besides numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from repel.data.samples import Samples, Splits
from repel.evaluation.modality import Baseline, Plot
from repel.evaluation.protocol import Part
from repel.evaluation.text_table import TextTable, on_one_line

if TYPE_CHECKING:
    from repel.interactions.pairs import Interactions

__all__ = ["INTERACTIONS", "InteractionModality"]


class InteractionModality:
    """Popular items, item-kNN and EASE as baselines; see evaluation.modality.Modality."""

    noun = "pairs"
    input_options: tuple[str, ...] = ()
    sides = ("users", "items")

    def view_pairs(self, data: Any, n: int) -> TextTable:
        """The first n training pairs, by name."""
        train = data.splits.train
        pairs = train.x[:n].tolist()
        rows = [[train.store.user_name(user), train.store.item_name(item)] for user, item in pairs]
        return TextTable(["user", "item"], [[on_one_line(cell) for cell in row] for row in rows], [""] * len(rows))

    def baselines(self, train: Samples, val: Samples, bank: int | None) -> list[Baseline]:
        from repel.interactions.baselines import pair_baselines

        return pair_baselines(cast("Interactions", train), cast("Interactions", val))

    def neighbor_plot(self, test: Part, train: Part, classes: Sequence[str]) -> Plot:
        raise NotImplementedError

    def thumbnails(self, samples: Samples, places: Tensor, side: int) -> None:
        return None

    def captions(self, samples: Samples, places: Tensor) -> dict[str, list[str]]:
        return {}

    def embedded(self, splits: Splits) -> tuple[dict[str, Samples], list[str]]:
        """All users and all items, with how many pairs of each split they have."""
        from repel.interactions.counted import counted_entities

        return counted_entities(splits), splits.train.store.classes  # type: ignore[attr-defined]

    def columns(self, samples: Samples, split: str) -> dict[str, list[str]]:
        counts = {f"{name}_pairs": list(map(str, of.tolist())) for name, of in samples.counts.items()}  # type: ignore[attr-defined]
        assert samples.names is not None
        return {"name": samples.names.tolist(), **counts}


INTERACTIONS = InteractionModality()
