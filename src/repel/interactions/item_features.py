"""Features of items by the items' labels: kNN, linear and geometry, as for images and texts."""

from collections import Counter
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from repel.base.collectives import rank
from repel.data.identity import name_keys
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score
from repel.interactions.pairs import Entities, EntityStore, Interactions
from repel.interactions.two_tower import TwoTower

__all__ = ["ItemFeatures", "split_items"]

FEWEST = 10  # items of some label: one is chosen by then


class ItemFeatures(Evaluator):
    """Other evaluators, on the items that have a label: 80 % of each class to fit, 10 % to choose, 10 % to test.

    Their keys begin with `items_`. Which item is in which part depends on the names and labels of the items alone.
    Left out where no label is of 10 items, and where the encoder sees the labels.

    Args:
        evaluators: name -> evaluator of features and labels, such as KNN.
    """

    needs_labels = False  # of the pairs

    def __init__(self, evaluators: Mapping[str, Evaluator]):
        self.evaluators = {name: one for name, one in evaluators.items() if one}
        self.noted = False

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        store = cast(Interactions, train.samples).store
        known = [] if store.item_labels is None else store.item_labels[store.item_labels >= 0].tolist()
        if max(Counter(known).values(), default=0) < FEWEST:
            self._note(f"no label is of {FEWEST} items")
            return Fitted(lambda test: [])
        if isinstance(network.encoder, TwoTower) and network.encoder.item.known in ("labels", "both"):
            self._note(f"encoder.item_features={network.encoder.item.known} shows the encoder these labels")
            return Fitted(lambda test: [])
        items = store.all_items()
        fit_on, choose_on, test_on = (items[places] for places in split_items(store))
        parts = _encoded(fit_on, network), _encoded(choose_on, network)
        fitted = [one.fit(*parts, network) for one in self.evaluators.values()]
        chosen = [_of_items(score, len(fit_on), len(choose_on)) for one in fitted for score in one.chosen]

        def score(test: Part) -> list[Score]:
            tested = _encoded(test_on, network)
            sizes = len(fit_on) + len(choose_on), len(test_on)
            return [_of_items(score, *sizes) for one in fitted for score in one.score(tested)]

        return Fitted(score, chosen)

    def _note(self, why: str) -> None:
        if not self.noted and rank() == 0:
            print(f"note     evaluators=items is left out: {why}", flush=True)
        self.noted = True


def split_items(store: EntityStore) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the labelled items to fit, to choose and to test on, each in ascending order.

    Of each class, in the order of a hash of the names, the 6th, 16th, ... is tested and the 10th, 20th, ... chosen by.
    So every class that is tested is fitted on.
    """
    assert store.item_labels is not None, "the caller has looked"
    known = (store.item_labels >= 0).nonzero().squeeze(1)
    by_name = known[name_keys(store.item_name(item) for item in known.tolist()).argsort(stable=True)]
    row = by_name[store.item_labels[by_name].argsort(stable=True)]
    labels = store.item_labels[row]
    place = (torch.arange(len(row)) - torch.searchsorted(labels, labels)) % 10  # within the class
    test, choose = place == 5, place == 9
    return row[~test & ~choose].sort().values, row[choose].sort().values, row[test].sort().values


def _encoded(items: Entities, network: Network) -> Part:
    assert items.labels is not None, "those that have a label"
    x, _ = network.encode(items)
    return Part(x, items.labels.to(x.device), items)


def _of_items(score: Score, fitted_on: int, scored_on: int) -> Score:
    sizes = {"labels": fitted_on, "samples": scored_on}
    label = f"item {score.label.split(',')[0].removeprefix('share of ')}"  # as narrow as the ranking's
    return score._replace(key=f"items_{score.key}", label=label, settings=score.settings | sizes)
