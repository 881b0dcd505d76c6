"""The views of a pair of a user and an item: which node of which graph each view shows."""

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
    alike. What is a candidate only, sampled negatives and the catalog, is seen in graph 0.

    Args:
        further: of each further view, side and graph, such as [[user, 1], [user, 2], [item, 1], [item, 2]].
        negatives: M, items drawn for each pair, each as likely as any other: explicit negatives, which are candidates
            of every anchor. One that the pair's user has in training is a candidate like others, except the pair's own.
        catalog: bring all items, for loss.candidates=catalog.

    Raises:
        ValueError: a further view is no such pair; negatives is below 0.

    Example:
        >>> batch = PairBatch(torch.tensor([[0, 5], [1, 7]]), users=3, items=6)
        >>> views = PairViews(further=[["user", 1]])
        >>> views.apply(batch, views.draw(2, torch.Generator())).views.tolist()
        [[[0, 0], [1, 0]], [[5, 0], [7, 0]], [[0, 1], [1, 1]]]
    """

    def __init__(self, further: Sequence[Sequence[str | int]] = (), negatives: int = 0, catalog: bool = False):
        self.shown = [(0, 0), (1, 0)]  # side and graph of each view
        for view in further:
            if len(view) != 2 or view[0] not in SIDES or not isinstance(view[1], int) or view[1] < 0:
                raise ValueError(f"views.further must be pairs of user or item and a graph, got {list(view)}")
            self.shown.append((SIDES.index(str(view[0])), view[1]))
        if negatives < 0:
            raise ValueError(f"views.negatives must be 0 or more, got {negatives}")
        self.n, self.negatives, self.catalog = len(self.shown), negatives, catalog

    def draw(self, n: int, generator: torch.Generator) -> Params:
        """Of the last entry, which is no view's, (n, M) numbers in [0, 1): which items are negatives.

        Of the views nothing is drawn: the encoder draws its graphs.
        """
        drawn = {"negatives": torch.rand(n, self.negatives, generator=generator, dtype=torch.float64)}
        return [*({} for _ in self.shown), *([drawn] if self.negatives else [])]

    def apply(self, x: PairBatch, params: Params) -> Viewed:
        """(V, B, 2), (M, B, 2) negatives and (items, 2) of the catalog, and the entities that they show."""
        views = torch.stack([_in_graph(x.nodes[:, side], graph) for side, graph in self.shown])
        viewed = Viewed(views, ids=views[..., 0])
        if self.negatives:
            drawn = params[-1]["negatives"].to(x.nodes.device, non_blocking=True).T
            items = x.users + (drawn * x.items).long().clamp(max=x.items - 1)
            viewed = viewed._replace(negatives=_in_graph(items, 0), negative_ids=items)
        if self.catalog:
            items = x.users + torch.arange(x.items, device=x.nodes.device)
            viewed = viewed._replace(catalog=_in_graph(items, 0), catalog_ids=items)
        return viewed


class TowerViews(PairViews):
    """The users and the items of pairs, each a batch of its own (B, 2): for an encoder with a tower a side.

    Args:
        negatives, catalog: see PairViews.

    Example:
        >>> batch, views = PairBatch(torch.tensor([[0, 5], [1, 7]]), users=3, items=6), TowerViews()
        >>> [side.tolist() for side in views.apply(batch, views.draw(2, torch.Generator())).views]
        [[[0, 0], [1, 0]], [[5, 0], [7, 0]]]
    """

    def __init__(self, negatives: int = 0, catalog: bool = False):
        super().__init__((), negatives, catalog)

    def apply(self, x: PairBatch, params: Params) -> Viewed:
        """A tuple with one batch a side; the rest as PairViews."""
        viewed = super().apply(x, params)
        return viewed._replace(views=tuple(viewed.views))


def _in_graph(nodes: Tensor, graph: int) -> Tensor:
    """Nodes (...) as an encoder takes them: (..., 2)."""
    return torch.stack([nodes, torch.full_like(nodes, graph)], -1)
