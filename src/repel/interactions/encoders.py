"""Encoders: nodes (B, 2), see views.PairViews, -> features h (B, F). Each has `out_features`, F."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.sized import SizedByData
from repel.data.pair import ViewBatch
from repel.data.samples import DataInfo
from repel.interactions.pairs import InteractionInfo

__all__ = ["NodeVectors", "Table", "as_nodes", "random_vectors"]


class NodeVectors(SizedByData):
    """A learned vector for each user and each item, drawn from a normal distribution, of length about 1.

    Args:
        width: F, dimensions of a vector.

    Raises:
        ValueError: width is below 1.
    """

    def __init__(self, width: int):
        super().__init__()
        if width < 1:
            raise ValueError(f"encoder.width must be at least 1, got {width}")
        self.seed = int(torch.randint(2**62, ()))  # reading the data may draw too, as often as it likes
        self.weight = nn.Parameter(torch.empty(0, width))

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, InteractionInfo)
        self.weight = nn.Parameter(random_vectors(info.users + info.items, self.weight, self.seed))


def random_vectors(n: int, like: Tensor, seed: int) -> Tensor:
    """(n, F) from a normal distribution, of length about 1, with the width, type and device of a matrix (..., F)."""
    width = like.shape[1]
    return (torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * width**-0.5).to(like)


def as_nodes(x: ViewBatch) -> Tensor:
    """(n, 2), also of a tuple with one batch a side, which views=towers gives."""
    return torch.cat(x) if isinstance(x, tuple) else x


class Table(nn.Module):
    """Matrix factorization: a vector for each user and each item (Koren, Bell, Volinsky 2009, doi 10.1109/MC.2009.263).

    Args:
        width: F, dimensions of a vector.

    Raises:
        ValueError: width is below 1.

    Example:
        >>> from repel.data.samples import give_info
        >>> encoder = Table(width=4)
        >>> give_info(encoder, InteractionInfo(train_size=10, users=3, items=6, pairs=torch.zeros(10, 2)))
        >>> encoder(torch.tensor([[0, 0], [5, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.out_features = width
        self.vectors = NodeVectors(width)

    def forward(self, x: ViewBatch) -> Tensor:
        return F.embedding(as_nodes(x)[:, 0], self.vectors.weight)
