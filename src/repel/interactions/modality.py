"""What a report shows of users and items besides numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from repel.data.samples import CompleteSplits, Samples, Splits
from repel.evaluation.modality import Baseline, Plot, Shown
from repel.evaluation.protocol import Network, Part
from repel.evaluation.ranking import scorer_of
from repel.evaluation.text_table import TextTable, on_one_line
from repel.interactions.counted import CountedEntities, counted_entities

if TYPE_CHECKING:
    from repel.interactions.pairs import Interactions

__all__ = ["INTERACTIONS", "InteractionModality"]


class InteractionModality:
    """Popular items, item-kNN and EASE as baselines; see evaluation.modality.Modality."""

    noun = "pairs"
    input_options: tuple[str, ...] = ()
    sides = ("users", "items")

    def view_pairs(self, data: Any, n: int) -> TextTable:
        from repel.interactions.figures import view_table

        return view_table(data, n)

    def baselines(self, train: Samples, val: Samples, bank: int | None) -> list[Baseline]:
        from repel.interactions.baselines import pair_baselines

        return pair_baselines(cast("Interactions", train), cast("Interactions", val))

    def neighbor_plot(self, test: Part, train: Part, classes: Sequence[str]) -> Plot:
        from repel.interactions.figures import neighbor_table

        caption = "Items and the items nearest to them, by cosine" + "; green: the query's kind" * bool(classes)
        return Plot("neighbours", caption, neighbor_table(test, train, classes))

    def shown(self, network: Network, splits: CompleteSplits) -> Shown:
        """Vectors of all items, and what is ranked for some test users."""
        from repel.interactions.figures import user_table

        store, scorer = splits.train.store, scorer_of(network, splits.train.store)  # type: ignore[attr-defined]
        items = counted_entities(Splits(splits.train, splits.test, splits.val))["items"]
        x, places = network.encode(items)
        y = torch.full((len(x),), -1) if items.labels is None else items.labels[places.cpu()]

        def users() -> Plot:
            caption = (
                "Some test users: the number of test items among the first ten, some training items, then the first "
                "ten of all items but those of training and validation; checked and green: in the test split"
            )
            return Plot("users", caption, user_table(scorer, splits, network.device))

        return Shown(Part(x, y.to(x.device), items), store.classes, "items", [("users", users)])

    def thumbnails(self, samples: Samples, places: Tensor, side: int) -> None:
        return None

    def captions(self, samples: Samples, places: Tensor) -> dict[str, list[str]]:
        """The name, and how many training pairs there are."""
        columns = self.columns(samples[places], "")
        return {"name": [on_one_line(name) for name in columns["name"]], "training pairs": columns["train_pairs"]}

    def embedded(self, splits: Splits) -> tuple[dict[str, Samples], list[str]]:
        """All users and all items, with how many pairs of each split they have."""
        return counted_entities(splits), splits.train.store.classes  # type: ignore[attr-defined]

    def columns(self, samples: Samples, split: str) -> dict[str, list[str]]:
        assert isinstance(samples, CountedEntities)
        assert samples.counts is not None
        assert samples.names is not None
        counts = zip(samples.splits, samples.counts.T.tolist(), strict=True)
        return {"name": samples.names.tolist()} | {f"{name}_pairs": [str(n) for n in of] for name, of in counts}


INTERACTIONS = InteractionModality()
