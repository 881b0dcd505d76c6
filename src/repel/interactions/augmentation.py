"""Augmented graphs: edges or nodes left out, noise added to vectors; drawn from counters, the same on every rank."""

import torch
from torch import Tensor

from repel.base.hashing import element_bits, hashed
from repel.interactions.graph import Graph
from repel.interactions.propagation import Noise

__all__ = ["add_noise", "edges_between", "kept"]

_GRAPH_BIT, _LAYER_BIT = 56, 48  # a number of 64 bits: the graph, the layer, the node


def kept(key: Tensor, graph: int, n: int, rate: float) -> Tensor:
    """(n,) bool, which of n edges or nodes are in an augmented graph, each with probability 1 - rate.

    Args:
        key: 0-dim int64, of the step.
        graph: number of the graph.
    """
    keys = hashed(key + (graph << _GRAPH_BIT)).view(1).view(torch.int32)
    return element_bits(keys, n) >= round(rate * 2**32) - 2**31


def edges_between(nodes: Tensor, graph: Graph) -> Tensor:
    """(nodes,) bool -> (E,) bool, the edges both of whose ends are there."""
    degrees = graph.starts.diff()
    user = torch.repeat_interleave(nodes, degrees, output_size=len(graph.columns))[: graph.edges]
    return user & nodes.index_select(0, graph.columns[: graph.edges])


def add_noise(key: Tensor, graph: int, length: float) -> Noise:
    """Adds to each vector x of a layer sign(x) u, where u has this length and a random direction, all elements > 0.

    The direction is that of a vector uniform in the unit cube, in steps of 2^-16.
    """

    def noise(x: Tensor, layer: int) -> Tensor:
        nodes, width = x.shape
        counters = torch.arange(nodes, device=x.device) + (key + (graph << _GRAPH_BIT) + (layer << _LAYER_BIT))
        bits = element_bits(hashed(counters).view(nodes, 1).view(torch.int32), (width + 1) // 2)
        cube = bits.view(torch.int16)[:, :width].to(x.dtype).add_(2**15 + 0.5)
        scale = length / torch.linalg.vector_norm(cube, dim=1, keepdim=True)
        return cube.mul_(scale).mul_(x.sign())

    return noise
