"""Weighted k-nearest-neighbour classification of frozen features."""

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from repel.evaluation.features import encode, subset

QUERIES = 1024  # handled at a time: the similarities to the bank take 4 * 1024 * bank bytes


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
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    predicted = []
    for part in queries.split(QUERIES):
        similarity, neighbour = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = part.new_zeros(len(part), classes)
        votes.scatter_add_(1, labels[neighbour], ((similarity - 1) / temperature).exp())  # - 1: never overflows
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def knn_top1(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, k: int, temperature: float) -> float:
    """Accuracy in [0, 1] of knn_predict."""
    predicted = knn_predict(bank, labels, queries, k, temperature)
    classes = int(max(labels.max(), truth.max())) + 1
    return float(multiclass_accuracy(predicted, truth, num_classes=max(2, classes), average="micro"))


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
