"""Encoders: nodes (B, 2), see views.PairViews, -> features h (B, F). Each has `out_features`, F."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.sized import SizedByData, random_vectors
from repel.data.pair import ViewBatch
from repel.data.samples import DataInfo
from repel.interactions.pairs import InteractionInfo

__all__ = ["ItemBias", "NodeVectors", "Table", "as_nodes"]


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


def as_nodes(x: ViewBatch) -> Tensor:
    """(n, 2), also of a tuple with one batch a side, which views=towers gives."""
    return torch.cat(x) if isinstance(x, tuple) else x


class ItemBias(SizedByData):
    """An offset of each item for all users, as an angle, so that the cosine has it and vectors stay what they are:

        features = [v / ||v||, sin a, cos a],  a = pi / 2 for users, learned for items, from 0
        cosine of user u and item i = (cosine of v_u and v_i + sin a_i) / 2

    What all users share, that some items are popular, need then not be learned by each user's vector (biases of
    matrix factorization: Koren, Bell, Volinsky 2009, doi 10.1109/MC.2009.263, eq. 4; a bias as further dimensions of
    vectors of one length: Bachrach et al. 2014, doi 10.1145/2645710.2645741). As the cosine is halved, a temperature t
    without biases is t / 2 with them.

    Args:
        width: F, dimensions of the features, at least 3; v has `left` of them, two less.

    Raises:
        ValueError: width is below 3.

    Example:
        >>> from repel.data.samples import give_info
        >>> bias = ItemBias(width=4)
        >>> give_info(bias, InteractionInfo(train_size=10, users=3, items=6, pairs=torch.zeros(10, 2)))
        >>> bias(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([0, 5])).round(decimals=1).tolist()
        [[0.6000000238418579, 0.800000011920929, 1.0, -0.0], [0.0, 1.0, 0.0, 1.0]]
    """

    users: Tensor

    def __init__(self, width: int):
        super().__init__()
        if width < 3:
            raise ValueError(f"encoder.width must be at least 3 with encoder.item_bias, got {width}")
        self.left = width - 2
        self.angles = nn.Parameter(torch.empty(0))
        self.register_buffer("users", torch.zeros((), dtype=torch.int64))

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, InteractionInfo)
        self.angles = nn.Parameter(self.angles.new_zeros(info.items))
        self.users = torch.tensor(info.users, device=self.users.device)

    def forward(self, v: Tensor, nodes: Tensor) -> Tensor:
        """Vectors (n, F - 2) of nodes (n,) -> (n, F)."""
        items = nodes - self.users
        learned = F.embedding(items.clamp(min=0), self.angles[:, None])
        angles = learned.masked_fill((items < 0)[:, None], math.pi / 2)
        return torch.cat([F.normalize(v, dim=1, eps=1e-8), angles.sin(), angles.cos()], 1)


class Table(nn.Module):
    """Matrix factorization: a vector for each user and each item (Koren, Bell, Volinsky 2009, doi 10.1109/MC.2009.263).

    Args:
        width: F, dimensions of the features.
        item_bias: see ItemBias, which takes two of them.

    Raises:
        ValueError: width is too small.

    Example:
        >>> from repel.data.samples import give_info
        >>> encoder = Table(width=4)
        >>> give_info(encoder, InteractionInfo(train_size=10, users=3, items=6, pairs=torch.zeros(10, 2)))
        >>> encoder(torch.tensor([[0, 0], [5, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int = 64, item_bias: bool = False):
        super().__init__()
        self.out_features = width
        self.bias = ItemBias(width) if item_bias else None
        self.vectors = NodeVectors(width if self.bias is None else self.bias.left)

    def forward(self, x: ViewBatch) -> Tensor:
        nodes = as_nodes(x)[:, 0]
        h = F.embedding(nodes, self.vectors.weight)
        return h if self.bias is None else self.bias(h, nodes)
