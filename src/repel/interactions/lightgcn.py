"""Graph convolution over the training pairs: an encoder of users and items."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.interactions.encoders import NodeVectors
from repel.interactions.graph import Graph, Kept
from repel.interactions.propagation import Pass, layer_mean, propagate

__all__ = ["LightGCN"]


class LightGCN(nn.Module):
    """A vector for each user and item, averaged over neighborhoods of the training graph.

        E_0 learned,  E_l = A E_(l-1),  features = mean over l of E_l,  A = D^-1/2 (0 R; R' 0) D^-1/2

    He et al. 2020, arXiv:2002.02126, eq. 3, 4 and 8: R says which pairs are in the training data, D holds the degrees.

    In training all nodes are propagated in every step, forward and backward, 2 L E F multiplications each way for E
    pairs. In evaluation once: the result is kept until the weights change or training goes on (a write through `.data`
    in between goes unseen). Computed in float32 under autocast and for weights of half precision.

    Args:
        width: F, dimensions of a vector.
        layers: L, at least 1.
        first_layer: whether the mean has layer 0, the nodes' own vectors.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> from repel.data.samples import give_info
        >>> from repel.interactions.pairs import InteractionInfo
        >>> encoder = LightGCN(width=4, layers=2)
        >>> give_info(encoder, InteractionInfo(2, users=1, items=2, pairs=torch.tensor([[0, 0], [0, 1]])))
        >>> encoder(torch.tensor([[0, 0], [2, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int = 64, layers: int = 3, first_layer: bool = True):
        super().__init__()
        if layers < 1:
            raise ValueError(f"encoder.layers must be at least 1, got {layers}; encoder=table has none")
        self.out_features = width
        self.mean = layer_mean(layers, first_layer)
        self.vectors, self.graph = NodeVectors(width), Graph()
        self._table = Kept()

    def train(self, mode: bool = True) -> "LightGCN":
        self._table.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LightGCN":
        """What .to(), .half() and the like call."""
        self._table.clear()
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.vectors.weight
        sources = [weight, self.graph.starts, self.graph.columns]
        graph_free = self.training or torch.is_grad_enabled()
        table = self.tables() if graph_free else self._table.get(sources, self.tables)
        rows = x[:, 0] + x[:, 1] * self.graph.nodes
        return F.embedding(rows, table.flatten(0, 1)).to(weight.dtype)

    def tables(self) -> Tensor:
        """(graphs, nodes, F): the features of all nodes in each graph."""
        weight = self.vectors.weight
        with torch.autocast(weight.device.type, enabled=False):
            x = weight if weight.dtype == torch.float64 else weight.float()
            return propagate(x, [Pass(self.graph.adjacency(dtype=x.dtype), [self.mean])])
