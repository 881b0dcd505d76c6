"""Two towers: a network for users and one for items, over what is known of each and over vectors of their own."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.sized import SizedByData, random_vectors
from repel.data.pair import ViewBatch
from repel.data.samples import DataInfo
from repel.interactions.item_texts import ItemTextEncoder
from repel.interactions.pairs import InteractionInfo

__all__ = ["Tower", "TwoTower"]

SIDES = ("user", "item")
KINDS = {"user": ("none", "features"), "item": ("none", "features", "labels", "both")}


class Tower(SizedByData):
    """One side's network: MLP( own vector + P features + what its text tells ).

    Args:
        side: user or item.
        width: F, of the vectors and of what comes out.
        hidden: widths of the MLP's hidden layers, with ReLU after each; empty: a linear map.
        own: whether each entity has a vector of its own.
        known: which features it sees: none, features, labels, or both.
        text: what tells of texts, numbers (n,) -> (n, F); or None.
    """

    shows_data = True
    features: Tensor

    def __init__(self, side: str, width: int, hidden: Sequence[int], own: bool, known: str, text: nn.Module | None):
        super().__init__()
        self.side, self.known, self.text = side, known, text
        self.seed = int(torch.randint(2**62, ()))  # reading the data may draw too, as often as it likes
        self.own = nn.Parameter(torch.empty(0, width)) if own else None
        self.projection = nn.Parameter(torch.empty(0, width)) if known != "none" else None  # P
        self.register_buffer("features", torch.zeros(0, 0))  # (entities, what is known of each)
        sizes, parts = [width, *hidden, width], []
        for inner, outer in pairwise(sizes):
            parts += [nn.Linear(inner, outer), nn.ReLU()]
        self.mlp = nn.Sequential(*parts[:-1])

    @property
    def entities(self) -> int:
        return len(self.features if self.own is None else self.own)

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, InteractionInfo)
        if self.own is not None:
            entities = info.users if self.side == "user" else info.items
            self.own = nn.Parameter(random_vectors(entities, self.own, self.seed))
        if self.projection is not None:
            self.features = self._features(info).to(self.features)
            drawn = random_vectors(self.features.shape[1], self.projection, self.seed + 1)
            usual = self.features.square().sum(1).mean().sqrt().clamp(min=1e-6)  # length of an entity's features
            self.projection = nn.Parameter(drawn / usual)  # so that what comes out is as long as an own vector

    def _features(self, info: InteractionInfo) -> Tensor:
        given = info.user_features if self.side == "user" else info.item_features
        labels = None if info.item_labels is None else F.one_hot(info.item_labels + 1)[:, 1:]  # zeros where unknown
        found = {"features": [given], "labels": [labels], "both": [given, labels]}[self.known]
        there = [part.float() for part in found if part is not None]
        if len(there) < len(found):
            key = f"encoder.{self.side}_features"
            raise ValueError(f"{key}={self.known}: the data does not bring them; {key}=none does without")
        return torch.cat(there, 1)

    def forward(self, places: Tensor) -> Tensor:
        """(n,) numbers of users, or of items, each counted from 0 -> (n, F)."""
        found = [] if self.own is None else [F.embedding(places, self.own)]
        if self.projection is not None:
            found.append(F.embedding(places, self.features) @ self.projection)
        if self.text is not None:
            found.append(self.text(places))
        return self.mlp(torch.stack(found).sum(0))


class TwoTower(nn.Module):
    """A tower a side (Yi et al. 2019, doi 10.1145/3298689.3346996, sec. 3, whose loss is loss=infonce).

    Its input are nodes (n, 2), see views.PairViews, of both sides in any order; or, from views=towers, a tuple with
    those of users and those of items, which each tower sees alone: half of the work.

    Args:
        width: F, of what comes out, and of own vectors.
        hidden: widths of each tower's hidden layers; empty: a linear map.
        own_vectors: the sides whose entities have a learned vector each. Without it an entity without training pairs
            is as good as others with its features.
        user_features: none, or features: those that the data brings, see pairs.EntityStore.
        item_features: none, features, labels (one-hot), or both.
        item_text: an encoder of texts (n, L) -> (n, T), which is trained as a part of the items' tower: what it tells
            of an item's text is added, see item_texts.ItemTextEncoder; or None.

    Raises:
        ValueError: an option is out of range, a tower sees nothing, or (in on_data) the data brings no such features,
            or no texts.

    Example:
        >>> from repel.data.samples import give_info
        >>> encoder = TwoTower(width=4, own_vectors=["user"], item_features="labels")
        >>> give_info(encoder, InteractionInfo(5, users=2, items=3, item_labels=torch.tensor([0, 1, 1])))
        >>> encoder(torch.tensor([[0, 0], [3, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        width: int = 64,
        hidden: Sequence[int] = (128,),
        own_vectors: Sequence[str] = ("user", "item"),
        user_features: str = "none",
        item_features: str = "none",
        item_text: nn.Module | None = None,
    ):
        super().__init__()
        if min([width, *hidden]) < 1:
            raise ValueError(f"encoder.width and encoder.hidden must be at least 1, got {width} and {list(hidden)}")
        if not set(own_vectors) <= set(SIDES):
            raise ValueError(f"encoder.own_vectors must be some of user and item, got {list(own_vectors)}")
        self.out_features = width
        known = {"user": user_features, "item": item_features}
        for side, kind in known.items():
            if kind not in KINDS[side]:
                raise ValueError(f"encoder.{side}_features must be one of {', '.join(KINDS[side])}, got {kind!r}")
            if kind == "none" and side not in own_vectors and (side == "user" or item_text is None):
                raise ValueError(f"the tower of {side}s sees nothing: set encoder.{side}_features or own_vectors")
        own = {side: side in own_vectors for side in SIDES}
        text = None if item_text is None else ItemTextEncoder(item_text, width)
        self.user = Tower("user", width, hidden, own["user"], known["user"], None)
        self.item = Tower("item", width, hidden, own["item"], known["item"], text)

    def forward(self, x: ViewBatch) -> Tensor:
        users = self.user.entities
        if isinstance(x, tuple):
            return torch.cat([self.user(x[0][:, 0]), self.item(x[1][:, 0] - users)])
        nodes = x[:, 0]  # both towers see all, so that shapes do not depend on which is which
        user, item = self.user(nodes.clamp(max=users - 1)), self.item((nodes - users).clamp(min=0))
        return torch.where((nodes < users)[:, None], user, item)
