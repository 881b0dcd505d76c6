"""Weighted k-nearest-neighbour classification of frozen features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from repel.evaluation.features import encode, subset
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score, accuracy

QUERIES = 1024  # handled at a time: the similarities to the bank take 4 * 1024 * bank bytes


def neighbours(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines (Q, k) and places (Q, k) of the min(k, M) bank features (M, F) most similar to each query, in order."""
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    found = [(part @ bank.T).topk(min(k, len(bank)), dim=1) for part in queries.split(QUERIES)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Classes (Q,) with the largest vote of neighbours' labels (Q, k), each of exp(cosine / temperature)."""
    votes = similarity.new_zeros(len(similarity), classes)
    votes.scatter_add_(1, labels, ((similarity - 1) / temperature).exp())  # - 1: never overflows
    return votes.argmax(1)


def knn_predict(bank: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float) -> Tensor:
    """The class with the largest vote among the k most similar bank features, each voting exp(cosine / temperature).

    Wu, Xiong, Yu, Lin 2018 (instance discrimination), arXiv:1805.01978, sec. 3.4.

    Args:
        bank: (M, F) features, with labels (M,) in 0 .. C - 1.
        queries: (Q, F) features.
        k: neighbours; at most M are taken.
        temperature: > 0.

    Returns:
        (Q,) int64 classes.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(f"kNN needs k >= 1 and temperature > 0, got k={k}, temperature={temperature}")
    similarity, nearest = neighbours(bank, queries, k)
    return vote(similarity, labels[nearest], int(labels.max()) + 1, temperature)


def knn_top1(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, k: int, temperature: float) -> float:
    """Accuracy in [0, 1] of knn_predict."""
    return accuracy(knn_predict(bank, labels, queries, k, temperature), truth)


class KNN(Evaluator):
    """Weighted kNN on unit features; training and validation images are the bank.

    Args:
        k: of `knn_top1`.
        others: further k, each `knn<k>_top1`.
        temperature: of the vote.
    """

    of_tasks = ("knn_top1",)

    def __init__(self, k: int, others: Sequence[int], temperature: float):
        if any(n < 1 for n in (k, *others)) or not temperature > 0:
            raise ValueError(f"kNN needs k >= 1 and temperature > 0, got {k}, {list(others)} and {temperature}")
        self.k, self.others, self.temperature = k, list(others), temperature

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        bank, labels = torch.cat([train.x, val.x]), torch.cat([train.y, val.y])

        def score(test: Part) -> list[Score]:
            classes = int(max(labels.max(), test.y.max())) + 1
            similarity, nearest = neighbours(bank, test.x, max(self.k, *self.others, 1))
            scores = []
            for name, k in [("knn_top1", self.k), *((f"knn{k}_top1", k) for k in self.others if k != self.k)]:
                predicted = vote(similarity[:, :k], labels[nearest[:, :k]], classes, self.temperature)
                settings = {"k": k, "temperature": self.temperature, "normalize": "l2"}
                words = f"kNN top-1, k={k}, t={self.temperature:g}"
                scores.append(Score(name, words, accuracy(predicted, test.y), settings))
            return scores

        return Fitted(score)


class ValidationKNN(Callback):
    """Logs `val/knn_top1`: training images are the bank, validation images the queries.

    Without labels there is nothing to measure, and it stays silent. The validation images' features h (M, F) stay in
    `features`, for other callbacks to look at.

    Args:
        k, temperature: of the vote.
        bank: at most so many training images, evenly spaced; None: all.
    """

    def __init__(self, k: int, temperature: float, bank: int | None):
        self.k, self.temperature, self.bank = k, temperature, bank
        self.features: Tensor | None = None

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        data = trainer.datamodule
        if trainer.sanity_checking:
            return
        val = data.splits.val.labelled if data.labelled else data.splits.val
        self.features, places = encode(module.encoder, val, data.normalize, module.device)
        if not data.labelled:
            return
        train = subset(data.splits.train.labelled, self.bank)
        bank, bank_places = encode(module.encoder, train, data.normalize, module.device)
        labels = [part.labels.to(bank.device)[p] for part, p in ((train, bank_places), (val, places))]
        top1 = knn_top1(bank, labels[0], self.features, labels[1], self.k, self.temperature)
        module.log("val/knn_top1", top1)  # the same on all ranks
