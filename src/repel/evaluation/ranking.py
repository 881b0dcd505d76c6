"""Ranking: are the items that a user took later among the first of all items?"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from repel.data.samples import Samples
from repel.evaluation.feature_files import encode_stored
from repel.evaluation.item_rankings import RankingResult, check_ks, popularity_fifths, rank_all
from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Evaluator, Fitted, Measurement, Network, Part, Score
from repel.evaluation.ranking_plot import popularity_plot
from repel.evaluation.stored_features import StoredFeatures
from repel.evaluation.top_items import CosineScorer, KnownItems, Scorer, StoredScorer, top_items

__all__ = ["CosineScorer", "KnownItems", "Ranking", "Scorer", "UserItemPairs", "pairs_of", "scorer_of", "top_items"]

LABELS = {"recall": "recall", "ndcg": "NDCG", "precision": "precision", "mrr": "MRR", "hit_rate": "hit rate"}
FIFTH_LABELS = {
    "rare": "least popular", "2nd": "second least popular", "3rd": "middle", "4th": "second most popular",
    "top": "most popular",
}  # fmt: skip


class Entities(Protocol):
    """Users and items: how many, and each of them as an encoder takes it."""

    users: int
    items: int

    def all_users(self) -> Samples: ...

    def all_items(self) -> Samples: ...


@runtime_checkable
class UserItemPairs(Protocol):
    """Samples that are pairs x (N, 2) of a user and an item, each counted from 0."""

    x: Tensor
    store: Entities


def pairs_of(samples: Any, name: str) -> UserItemPairs:
    """The samples, which must be pairs.

    Raises:
        ValueError: they are something else; the message names the option `name`.
    """
    if not isinstance(samples, UserItemPairs):
        raise ValueError(f"{name} ranks items for users, and this data is {samples.modality.noun}; leave it out")
    return samples


def scorer_of(network: Network, store: Entities) -> Scorer:
    """A baseline's own, or cosines of the network's vectors of all users and items, each encoded once."""
    if network.scorer is not None:
        return network.scorer
    users, items = (
        encode_stored(of, network.encode, network.files)[0] for of in (store.all_users(), store.all_items())
    )
    if isinstance(users, StoredFeatures) or isinstance(items, StoredFeatures):
        return StoredScorer(users, items)
    return CosineScorer(users, items)


class Ranking(Evaluator):
    """All items are ranked for each user by the cosine, see ranking_metrics for the metrics.

    For the test split the user's training and validation items are left out, for the validation split those of
    training. coverage_at_k: share of the items that are among the first k of anybody; popularity_at_k: training pairs
    of a recommended item, in the mean; recall_at_k_fifth_1 .. 5: recall of the items of each fifth of popularity, the
    least popular first, in the mean over users who have a test item there.

    Args:
        ks: lengths of the list.
        k: the length for coverage, popularity and recall by popularity, and of the validation scores.
    """

    needs_labels = False
    takes_scorers = True

    def __init__(self, ks: Sequence[int] = (10, 20, 50), k: int = 20):
        self.ks, self.k = check_ks("evaluators.ranking.ks", ks), check_ks("evaluators.ranking.k", [k])[0]

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        trained, validated = (pairs_of(part.samples, "evaluators=ranking") for part in (train, val))
        store, device = trained.store, network.device
        scorer = scorer_of(network, store)

        def known(*pairs: Tensor) -> KnownItems:
            return KnownItems.of(torch.cat(pairs), store.users).to(device)

        popularity = torch.bincount(trained.x[:, 1].long(), minlength=store.items).to(device)
        settings = {"normalize": "l2"} if network.scorer is None else {"normalize": "none", **network.settings}
        chosen = []
        if len(validated.x):
            chosen = _means(rank_all(scorer, known(trained.x), known(validated.x), [self.k], self.k), settings)[:2]

        def score(test: Part) -> list[Score]:
            wanted = pairs_of(test.samples, "evaluators=ranking").x
            if not len(wanted):
                return []
            fifths = popularity_fifths(popularity)
            result = rank_all(scorer, known(trained.x, validated.x), known(wanted), self.ks, self.k, fifths)
            return self._scores(result, popularity, settings)

        return Fitted(score, [one._replace(split="val") for one in chosen])

    def _scores(self, result: RankingResult, popularity: Tensor, settings: dict[str, Any]) -> list[Score]:
        k, shown = self.k, result.shown.double()
        users = {"samples": next(iter(result.metrics.values())).users}
        mean = float((shown * popularity).sum() / shown.sum())
        scores = [
            Score(f"coverage_at_{k}", f"coverage@{k}", float((shown > 0).double().mean()), settings | users),
            Score(f"popularity_at_{k}", f"popularity@{k}", mean, settings | users, "test", None),
        ]
        for number, (fifth, name) in enumerate(zip(result.fifths, FIFTH_LABELS, strict=True), 1):
            if fifth.users:
                items = f"{FIFTH_LABELS[name]} fifth"
                own = settings | {"samples": fifth.users, "ci95": fifth.ci95, "items": items}
                scores.append(Score(f"recall_at_{k}_fifth_{number}", f"recall@{k}, {name} 5th", fifth.value, own))
        return [*_means(result, settings), *scores]

    def plot(self, measurements: Sequence[Measurement]) -> Plot | None:
        """Recall by fifths of popularity, a line for each row of the report."""
        return popularity_plot(measurements, self.k)


def _means(result: RankingResult, settings: dict[str, Any]) -> list[Score]:
    scores = []
    for name, mean in result.metrics.items():
        kind, _, k = name.rpartition("_at_")
        own = settings | {"samples": mean.users, "ci95": mean.ci95}
        scores.append(Score(name, f"{LABELS[kind]}@{k}", mean.value, own))
    return scores
