"""Encoders: nodes (B, 2), see views.PairViews, -> features h (B, F). Each has `out_features`, F."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.sized import SizedByData
from repel.data.samples import DataInfo
from repel.interactions.pairs import InteractionInfo

__all__ = ["NodeVectors", "Table"]


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
        draws, (_, width) = torch.Generator().manual_seed(self.seed), self.weight.shape
        drawn = torch.randn(info.users + info.items, width, generator=draws) * width**-0.5
        self.weight = nn.Parameter(drawn.to(self.weight))


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

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x[:, 0], self.vectors.weight)
