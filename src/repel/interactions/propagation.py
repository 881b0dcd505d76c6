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
        ctx.passes = passes
        result = x.new_zeros(sum(len(each.outputs) for each in passes), *x.shape)
        done = 0
        for adjacency, outputs, noise in passes:
            layer = x
            for number, shares in enumerate(zip(*outputs, strict=True)):
                if number:
                    layer = adjacency.times(layer)
                    if noise is not None:
                        layer = layer.add_(noise(layer, number))
                for output, share in enumerate(shares, done):
                    if share:
                        result[output].add_(layer, alpha=share)
            done += len(outputs)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), done = gradients, 0
        total = torch.zeros_like(gradient[0])
        for adjacency, outputs, _ in ctx.passes:
            layer = torch.zeros_like(total)
            for number, shares in reversed(list(enumerate(zip(*outputs, strict=True)))):
                for output, share in enumerate(shares, done):
                    if share:
                        layer.add_(gradient[output], alpha=share)
                layer = adjacency.times(layer) if number else layer
            total += layer
            done += len(outputs)
        return total, None
