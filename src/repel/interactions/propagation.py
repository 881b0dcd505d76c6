"""Vectors of nodes, passed along the edges of graphs, layer after layer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repel.interactions.graph import Adjacency

__all__ = ["Pass", "layer_mean", "propagate"]

Noise = Callable[[Tensor, int], Tensor]  # what is added to the vectors of a layer, and which layer it is


class Pass(NamedTuple):
    """One propagation: layer 0 are the nodes' own vectors, layer l is A times layer l - 1.

    outputs: of each output, how much of each layer 0 .. L it has.
    noise: what is added to each layer but the first; its gradient is none.
    """

    adjacency: Adjacency
    outputs: Sequence[Sequence[float]]
    noise: Noise | None = None


def layer_mean(layers: int, first_layer: bool) -> list[float]:
    """An output that is the mean of layers 1 .. `layers`, and 0 where the first counts."""
    left_out = 0 if first_layer else 1
    return [0.0] * left_out + [1 / (layers + 1 - left_out)] * (layers + 1 - left_out)


def propagate(x: Tensor, passes: Sequence[Pass]) -> Tensor:
    """The passes' outputs, one after another.

    Nothing is kept for the backward pass but the graphs: they are symmetric, so that it is another propagation.

    Args:
        x: (nodes, F), float32 or float64.
        passes: all with the same number of layers.

    Returns:
        (outputs, nodes, F).

    Example:
        >>> edge = Adjacency(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.ones(2))
        >>> propagate(torch.tensor([[1.0], [3.0]]), [Pass(edge, [layer_mean(1, first_layer=True)])])
        tensor([[[2.],
                 [2.]]])
    """
    return _Propagation.apply(x, passes)


class _Propagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Sequence[Pass]) -> Tensor:
        ctx.graphs = _by_graph(passes)
        result = _Sums(x, sum(len(each.outputs) for each in passes))
        for adjacency, members in ctx.graphs:
            first = adjacency.times(x)  # which the graph's passes share
            for outputs, shares, noise in members:
                layer = x
                for number, share in enumerate(zip(*shares, strict=True)):
                    if number:
                        layer = adjacency.times(layer) if number > 1 else first
                        if noise is not None:
                            layer = layer + noise(layer, number)
                    for output, factor in zip(outputs, share, strict=True):
                        result.add(output, layer, factor)
        return result.whole()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Noise is constant, so that the passes of a graph differ in nothing: their gradients go back together."""
        (gradient,) = gradients
        total = _Sums(gradient[0], 1)
        for adjacency, members in ctx.graphs:
            carried = _Sums(gradient[0], 1)
            for number in reversed(range(len(members[0].shares[0]))):
                for outputs, shares, _ in members:
                    for output, share in zip(outputs, shares, strict=True):
                        carried.add(0, gradient[output], share[number])
                if number and carried.begun[0]:
                    carried.replace(adjacency.times(carried.sums[0]))
            total.add(0, carried.sums[0], 1.0)
        return total.whole()[0], None


class _Member(NamedTuple):
    """A pass: the numbers of its outputs, their shares of the layers, and noise."""

    outputs: list[int]
    shares: Sequence[Sequence[float]]
    noise: Noise | None


def _by_graph(passes: Sequence[Pass]) -> list[tuple[Adjacency, list[_Member]]]:
    """The passes of each graph."""
    graphs: list[tuple[Adjacency, list[_Member]]] = []
    done = 0
    for adjacency, shares, noise in passes:
        member = _Member(list(range(done, done + len(shares))), shares, noise)
        done += len(shares)
        known = [members for own, members in graphs if own.values is adjacency.values]
        if known:
            known[0].append(member)
        else:
            graphs.append((adjacency, [member]))
    return graphs


class _Sums:
    """(n, ...) sums, whose memory is not cleared before it is written."""

    def __init__(self, like: Tensor, n: int):
        self.sums = like.new_empty(n, *like.shape)
        self.begun = [False] * n

    def add(self, place: int, x: Tensor, factor: float) -> None:
        if factor and self.begun[place]:
            self.sums[place].add_(x, alpha=factor)
        elif factor:
            torch.mul(x, factor, out=self.sums[place])
            self.begun[place] = True

    def whole(self) -> Tensor:
        assert all(self.begun), "an output has no layer at all"
        return self.sums

    def replace(self, x: Tensor) -> None:
        self.sums = x[None]
        self.begun = [True]
