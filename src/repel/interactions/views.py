"""The views of pairs of a user and an item: which node of which graph each view shows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from repel.data.views import Params, Viewed
from repel.interactions.pairs import PairBatch

__all__ = ["PairViews", "TowerViews"]

SIDES = ("user", "item")


class PairViews:
    """View 0 shows the user, view 1 the item; further views show either again, in an augmented graph.

    A view is (B, 2) int64: the node, and which graph the encoder sees it in. Graph 0 is the training graph; what the
    others are, edges dropped or noise added, is the encoder's option `augment`, drawn anew in every step for all ranks
    alike.

    Args:
        further: of each further view, side and graph, such as [[user, 1], [user, 2], [item, 1], [item, 2]].

    Raises:
        ValueError: a further view is no such pair.

    Example:
        >>> batch = PairBatch(torch.tensor([[0, 5], [1, 7]]), users=3, items=6)
        >>> views = PairViews(further=[["user", 1]])
        >>> views.apply(batch, views.draw(2, torch.Generator())).views.tolist()
        [[[0, 0], [1, 0]], [[5, 0], [7, 0]], [[0, 1], [1, 1]]]
    """

    def __init__(self, further: Sequence[Sequence[str | int]] = ()):
        self.shown = [(0, 0), (1, 0)]  # side and graph of each view
        for view in further:
            if len(view) != 2 or view[0] not in SIDES or not isinstance(view[1], int) or view[1] < 0:
                raise ValueError(f"views.further must be pairs of user or item and a graph, got {list(view)}")
            self.shown.append((SIDES.index(str(view[0])), view[1]))
        self.n = len(self.shown)

    def draw(self, n: int, generator: torch.Generator) -> Params:
        """Nothing is drawn: the encoder draws its graphs."""
        return [{} for _ in self.shown]

    def apply(self, x: PairBatch, params: Params) -> Viewed:
        """(V, B, 2) and the entities that they show."""
        views: list[Tensor] = []
        for side, graph in self.shown:
            nodes = x.nodes[:, side]
            views.append(torch.stack([nodes, torch.full_like(nodes, graph)], 1))
        return Viewed(torch.stack(views), ids=torch.stack([view[:, 0] for view in views]))


class TowerViews:
    """The users and the items of pairs, each a batch of its own: for an encoder with a tower a side.

    Example:
        >>> batch = PairBatch(torch.tensor([[0, 5], [1, 7]]), users=3, items=6)
        >>> [side.tolist() for side in TowerViews().apply(batch, []).views]
        [[[0, 0], [1, 0]], [[5, 0], [7, 0]]]
    """

    n = 2

    def draw(self, n: int, generator: torch.Generator) -> Params:
        """Nothing is drawn."""
        return [{}, {}]

    def apply(self, x: PairBatch, params: Params) -> Viewed:
        """A tuple of (B, 2) and (B, 2), and the entities that they show."""
        users, items = (torch.stack([nodes, torch.zeros_like(nodes)], 1) for nodes in x.nodes.unbind(1))
        return Viewed((users, items), ids=x.nodes.T)
