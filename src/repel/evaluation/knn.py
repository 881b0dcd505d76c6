"""Weighted k-nearest-neighbor classification of frozen features."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.base.collectives import share_blocks, world_size
from repel.evaluation.coverage import ceiling
from repel.evaluation.protocol import Array, Evaluator, Fitted, Network, Part, Score, accuracy
from repel.evaluation.sparse import sparse_neighbors
from repel.evaluation.stored_features import Features, StoredFeatures, join, rows_of
from repel.evaluation.stored_search import stored_neighbors

__all__ = ["KNN", "knn_predict", "knn_top1", "nearest_neighbors", "predict_on_all_ranks"]

QUERY_BLOCK = 1024  # queries handled at a time: their similarities to the bank take 4 * 1024 * M bytes


def nearest_neighbors(bank: Features, queries: Features, k: int) -> tuple[Tensor, Tensor]:
    """The bank features most similar to each query, by cosine, the most similar first.

    Args:
        bank: (M, F) features; stored ones are read in blocks.
        queries: (Q, F) features; both are sparse COO tensors, or neither is.
        k: neighbors; at most M are taken.

    Returns:
        Cosines (Q, min(k, M)) and places in the bank (Q, min(k, M)).

    >>> nearest_neighbors(torch.eye(3), torch.tensor([[0.0, 2.0, 1.0]]), k=2)[1]
    tensor([[1, 2]])
    """
    if isinstance(bank, StoredFeatures) or isinstance(queries, StoredFeatures):
        return stored_neighbors(bank, queries, k, QUERY_BLOCK)
    if bank.is_sparse:
        return sparse_neighbors(bank, queries, k)
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    blocks = [(block @ bank.T).topk(min(k, len(bank)), dim=1) for block in queries.split(QUERY_BLOCK)]
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])


def _vote(similarity: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Classes (Q,) with the largest vote of neighbors' labels (Q, k), each of exp(cosine / temperature)."""
    votes = similarity.new_zeros(len(similarity), int(labels.max()) + 1)
    votes.scatter_add_(1, labels, ((similarity - 1) / temperature).exp())  # - 1: never overflows
    return votes.argmax(1)


class _Bank:
    """Features (M, F) and the neighbors that were last searched in them, which several labelings ask for.

    shared: all ranks have the same features and ask for the same queries, and share the search.
    """

    def __init__(self, x: Features, shared: bool = True):
        self.x, self.shared = x, shared
        self.last: tuple[Features, int, tuple[Tensor, Tensor]] | None = None

    def neighbors(self, queries: Features, k: int) -> tuple[Tensor, Tensor]:
        if self.last is None or self.last[0] is not queries or self.last[1] != k:
            self.last = queries, k, self._search(queries, k)
        return self.last[2]

    def _search(self, queries: Features, k: int) -> tuple[Tensor, Tensor]:
        """Shared, each rank takes some of the queries, by blocks that each rounds as one rank would."""
        if not self.shared or world_size() == 1 or queries.is_sparse:
            return nearest_neighbors(self.x, queries, k)

        def search(places: Tensor) -> Tensor:
            cosines, nearest = nearest_neighbors(self.x, rows_of(queries, places.to(queries.device)), k)
            return torch.stack([cosines.double(), nearest.double()], dim=1)  # which holds both exactly

        cosines, nearest = share_blocks(search, len(queries), QUERY_BLOCK, queries.device).unbind(1)
        return cosines.to(self.x.dtype), nearest.long()


def _predictions(
    bank: _Bank, labels: Tensor, queries: Features, ks: Sequence[int], temperature: float
) -> dict[int, Tensor]:
    """k -> predicted classes (Q,); the neighbors are searched once."""
    similarity, nearest = bank.neighbors(queries, max(ks))
    blocks = list(zip(similarity.split(QUERY_BLOCK), nearest.split(QUERY_BLOCK), strict=True))  # votes are (block, C)
    return {k: torch.cat([_vote(s[:, :k], labels[n[:, :k]], temperature) for s, n in blocks]) for k in ks}


def knn_predict(
    bank: Array | StoredFeatures, labels: Array, queries: Array, k: int = 20, temperature: float = 0.1
) -> Tensor:
    """The class with the largest vote among the k most similar bank features, each voting exp(cosine / temperature).

    Wu, Xiong, Yu, Lin 2018 (instance discrimination), arXiv:1805.01978, sec. 3.4. Of several ranks each computes its
    own call.

    Args:
        bank: (M, F) features, a tensor or an array, of any scale.
        labels: (M,) classes of the bank in 0 .. C - 1.
        queries: (Q, F) features.
        k: neighbors, at least 1; at most M are taken.
        temperature: > 0.

    Returns:
        (Q,) int64 classes.

    Raises:
        ValueError: k or temperature out of range.

    >>> bank, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> knn_predict(bank, labels, torch.tensor([[0.9, 0.1], [0.2, 0.9]]), k=1)
    tensor([0, 1])
    """
    _check("kNN", [k], temperature)
    searched = _Bank(bank if isinstance(bank, StoredFeatures) else torch.as_tensor(bank), shared=False)
    return _predictions(searched, torch.as_tensor(labels).long(), torch.as_tensor(queries), [k], temperature)[k]


def predict_on_all_ranks(bank: Features, labels: Tensor, queries: Features, k: int, temperature: float) -> Tensor:
    """knn_predict, the same on all ranks, which all call it with the same arguments and share the queries."""
    _check("kNN", [k], temperature)
    return _predictions(_Bank(bank), labels.long(), queries, [k], temperature)[k]


def knn_top1(bank: Array, labels: Array, queries: Array, truth: Array, k: int = 20, temperature: float = 0.1) -> float:
    """Accuracy in [0, 1] of knn_predict, whose arguments it takes; truth: (Q,) the queries' classes.

    >>> bank, labels = torch.eye(3), torch.arange(3)
    >>> knn_top1(bank, labels, bank, torch.tensor([0, 1, 0]), k=1)
    0.666667
    """
    predicted = knn_predict(bank, labels, queries, k, temperature)
    return accuracy(predicted, torch.as_tensor(truth).long())


def _check(name: str, ks: Sequence[int], temperature: float) -> None:
    if any(k < 1 for k in ks) or not temperature > 0:
        raise ValueError(f"{name} needs k >= 1 and temperature > 0, got k={list(ks)} and temperature={temperature}")


class KNN(Evaluator):
    """Weighted kNN on unit features; training and validation samples are the bank.

    Args:
        k: of `knn_top1`.
        others: further k, each `knn<k>_top1`.
        temperature: of the vote.
    """

    task_metrics = ("knn_top1",)
    takes_sparse = takes_stored = True

    def __init__(self, k: int, others: Sequence[int], temperature: float):
        _check("evaluators.knn", [k, *others], temperature)
        self.k, self.others, self.temperature = k, list(others), temperature

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        return self._fit(_Bank(join([train.x, val.x])), torch.cat([train.y, val.y]))

    def fit_tasks(self, tasks: Mapping[str, tuple[Part, Part]], network: Network) -> dict[str, Fitted]:
        banks: dict[tuple[int, int], _Bank] = {}  # one for all tasks that label the same samples
        fitted = {}
        for task, (train, val) in tasks.items():
            same = id(train.x), id(val.x)
            if same not in banks:
                banks[same] = _Bank(join([train.x, val.x]))
            fitted[task] = self._fit(banks[same], torch.cat([train.y, val.y]))
        return fitted

    def _fit(self, bank: _Bank, labels: Tensor) -> Fitted:
        def score(test: Part) -> list[Score]:
            keys = {self.k: "knn_top1"} | {k: f"knn{k}_top1" for k in self.others if k != self.k}
            predictions = _predictions(bank, labels, test.x, list(keys), self.temperature)
            scores = []
            for k, key in keys.items():
                settings = {"k": k, "temperature": self.temperature, "normalize": "l2"} | ceiling(labels, test.y)
                label = f"kNN top-1, k={k}, t={self.temperature:g}"
                scores.append(Score(key, label, accuracy(predictions[k], test.y), settings))
            return scores

        return Fitted(score)
