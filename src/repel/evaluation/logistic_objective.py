"""What multinomial logistic regression minimizes: value, gradient and the larger part of the second derivatives."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Hessian", "Objective", "Scaling"]

FLAT = 1e-2  # the least curvature along a bias is this over C
TOP, BLOCK = 16, 512  # principal axes whose second derivatives are computed; sides of the matrix of these, at most
LEAST = 1e-3  # of the largest curvature
ROWS = 2**15  # samples whose second derivatives are computed at a time


class Hessian(NamedTuple):
    """Second derivatives by theta (C, R + 1), as far as they are computed.

    diagonal: (C, R + 1).
    blocks: of each labeling (C, K, C, K), by the last K columns of its theta.
    """

    diagonal: Tensor
    blocks: list[Tensor]


class Scaling:
    """A change of variables: along the new ones the Hessian's diagonal is 1, and the blocks are the identity.

    Along a sum over classes nothing changes but the penalty: what is less than LEAST is taken for that much.
    """

    def __init__(self, hessian: Hessian, classes: Sequence[int]):
        self.classes, self.scale = classes, hessian.diagonal.rsqrt()
        self.alone = hessian.diagonal.shape[1] - hessian.blocks[0].shape[1]  # columns that no block is of
        self.roots = []
        for block, part in zip(hessian.blocks, self.scale[:, self.alone :].split(classes), strict=True):
            scale = part.flatten()
            values, vectors = torch.linalg.eigh(scale[:, None] * block.view(len(scale), len(scale)) * scale)
            self.roots.append(scale[:, None] * vectors * values.maximum(LEAST * values[-1:]).rsqrt())

    def spread(self, move: Tensor) -> Tensor:
        """Of theta (C, R + 1)."""
        return self._apply(move, [root.T for root in self.roots])

    def gathered(self, gradient: Tensor) -> Tensor:
        """The gradient by the new variables."""
        return self._apply(gradient, self.roots)

    def _apply(self, rows: Tensor, roots: list[Tensor]) -> Tensor:
        last = [(part.flatten() @ root).view_as(part)
                for part, root in zip(rows[:, self.alone :].split(self.classes), roots, strict=True)]  # fmt: skip
        return torch.cat([rows[:, : self.alone] * self.scale[:, : self.alone], torch.cat(last)], dim=1)


class Objective:
    """The sum of the objectives of several labelings, of weights and biases theta (C, R + 1), C classes of all.

    shape: (N, R). held: samples whose logits are held at once.

    Classes come first everywhere: a softmax within rows of ten takes longer than the products around it.
    """

    def __init__(self, x: Tensor, labels: Sequence[Tensor], classes: Sequence[int], l2: Sequence[float]):
        self.x, self.classes, self.shape, self.held = x, list(classes), x.shape, len(x)
        first = accumulate([0, *self.classes[:-1]])
        self.truth = torch.stack([y + row for y, row in zip(labels, first, strict=True)])  # (labelings, N), among C
        self.l2 = torch.cat([x.new_full((c, 1), value) for value, c in zip(l2, classes, strict=True)])

    def softmax(self, theta: Tensor, x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (C, N), within each labeling, and the sum (N,) of the labelings' losses.

        A loss is no larger than that of the smallest probability which is a normal number, 87 in float32.
        """
        logits = torch.addmm(theta[:, -1:], theta[:, :-1], x.T)
        probabilities = torch.cat([part.softmax(0) for part in logits.split(self.classes)])
        own = probabilities.gather(0, truth).clamp(min=torch.finfo(x.dtype).tiny)
        return probabilities, -own.log().sum(0)

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, loss = self.softmax(theta, self.x, self.truth)
        residual = probabilities.scatter_add_(0, self.truth, self.x.new_full((), -1.0).expand(self.truth.shape))
        weighted = self.l2 * theta[:, :-1]
        slope = torch.addmm(weighted, residual, self.x, alpha=1 / len(self.x))
        value = loss.double().mean() + (weighted * theta[:, :-1]).double().sum() / 2
        return value, torch.cat([slope, residual.mean(1, keepdim=True)], dim=1)

    def curvature(self, theta: Tensor) -> Hessian:
        """Biases, which have no penalty, are taken for no flatter than FLAT / C."""
        parts = zip(self.x.split(ROWS), self.truth.split(ROWS, dim=1), strict=True)
        return self.penalized(self.curvature_sums((self.softmax(theta, x, truth)[0], x) for x, truth in parts))

    def curvature_sums(self, parts: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Diagonal and blocks of the samples' losses, float64: of parts with probabilities (C, n) and x (n, R)."""
        features = self.shape[1]
        columns = min(TOP + 1, BLOCK // max(self.classes), features + 1)
        sizes = [(sum(self.classes), features + 1), *((c, columns, c, columns) for c in self.classes)]
        sums = [torch.zeros(size, dtype=torch.float64, device=self.x.device) for size in sizes]
        for probabilities, x in parts:
            variance = probabilities * (1 - probabilities)
            sums[0] += torch.cat([variance @ x.square(), variance.sum(1, keepdim=True)], dim=1)
            last = torch.cat([x, x.new_ones(len(x), 1)], dim=1)[:, features + 1 - columns :]
            for block, own in zip(sums[1:], probabilities.split(self.classes), strict=True):
                weighted = (own[:, None] * last.T).flatten(0, 1)  # (C K, n)
                block -= (weighted @ weighted.T).view_as(block)
                block.diagonal(dim1=0, dim2=2).add_((weighted @ last).view(len(own), columns, columns).permute(1, 2, 0))
        return sums

    def penalized(self, sums: Sequence[Tensor]) -> Hessian:
        """From the sums over all samples."""
        diagonal, *blocks = ((part / self.shape[0]).to(self.x.dtype) for part in sums)
        flat = torch.cat([self.l2.new_full((c, 1), FLAT / c) for c in self.classes])
        more = torch.cat([self.l2.expand(-1, self.shape[1]), flat], dim=1)
        for block, own in zip(blocks, more.split(self.classes), strict=True):
            last = own[:, own.shape[1] - block.shape[1] :].flatten()
            block.view(len(last), len(last)).diagonal().add_(last)
        return Hessian(diagonal + more, blocks)
