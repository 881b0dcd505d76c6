"""Logistic regression of features in a file: value and gradient are summed over blocks, which the ranks share."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from repel.base.collectives import gather, rank, world_size
from repel.evaluation.logistic_objective import Hessian, Objective
from repel.evaluation.stored_features import StoredFeatures

__all__ = ["StoredAxes", "stored_axes", "stored_moments"]


def stored_moments(x: StoredFeatures) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) float64, in two passes."""
    zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    mean = _of_all_ranks(sum((rows.double().sum(0) for _, rows in _own(x)), start=zero)) / len(x)
    squares = sum(((rows.double() - mean).square().sum(0) for _, rows in _own(x)), start=zero)
    return mean, (_of_all_ranks(squares) / len(x)).sqrt()


class StoredAxes(NamedTuple):
    """Stored features x (N, F), standardized by mean and std (F,), and their principal axes (F, R).

    The coordinates along the axes are never made: weights and gradients are turned in their place.
    """

    x: StoredFeatures
    mean: Tensor
    std: Tensor
    axes: Tensor

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """This rank's blocks: places, and standardized features."""
        for places, rows in _own(self.x):
            yield places, ((rows.double() - self.mean) / self.std).float()

    def objective(self, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]) -> Objective:
        return _StoredObjective(self, labels, classes, l2)


def stored_axes(x: StoredFeatures, mean: Tensor, std: Tensor) -> StoredAxes:
    """The eigenvectors of the standardized features' second moments: F, also where there are fewer samples."""
    zero = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    raw = StoredAxes(x, mean, std, zero)
    moments = _of_all_ranks(sum(((rows.T @ rows).double() for _, rows in raw.blocks()), start=zero)) / len(x)
    return raw._replace(axes=torch.linalg.eigh(moments).eigenvectors.float())


class _StoredObjective(Objective):
    def __init__(self, stored: StoredAxes, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]):
        super().__init__(stored.axes, labels, classes, l2)
        self.stored, self.held = stored, stored.x.block
        self.shape = torch.Size([len(stored.x), stored.axes.shape[1]])

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        turned, axes = self._turned(theta), self.stored.axes
        sums = torch.zeros(turned.numel() + 1, dtype=torch.float64, device=theta.device)
        for places, rows in self.stored.blocks():
            truth = self.truth[:, places]
            probabilities, loss = self.softmax(turned, rows, truth)
            residual = probabilities.scatter_add_(0, truth, rows.new_full((), -1.0).expand(truth.shape))
            slope = torch.cat([residual @ rows, residual.sum(1, keepdim=True)], dim=1)
            sums += torch.cat([slope.flatten().double(), loss.double().sum()[None]])
        means = _of_all_ranks(sums) / len(self.stored.x)
        gradient = means[:-1].view_as(turned).to(theta.dtype)
        weighted = self.l2 * theta[:, :-1]
        value = means[-1] + (weighted * theta[:, :-1]).double().sum() / 2
        return value, torch.cat([gradient[:, :-1] @ axes + weighted, gradient[:, -1:]], dim=1)

    def curvature(self, theta: Tensor) -> Hessian:
        turned, axes = self._turned(theta), self.stored.axes
        own = self.curvature_sums(
            (self.softmax(turned, rows, self.truth[:, places])[0], rows @ axes) for places, rows in self.stored.blocks()
        )
        return self.penalized([_of_all_ranks(part) for part in own])

    def _turned(self, theta: Tensor) -> Tensor:
        """Weights and biases (C, F + 1) of standardized features that say the same."""
        return torch.cat([theta[:, :-1] @ self.stored.axes.T, theta[:, -1:]], dim=1)


def _own(x: StoredFeatures) -> Iterator[tuple[slice, Tensor]]:
    return x.blocks(rank(), world_size())


def _of_all_ranks(own: Tensor) -> Tensor:
    """The ranks' sum, on every rank in the same order."""
    return gather(own[None]).sum(0)
