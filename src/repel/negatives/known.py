"""Candidates that are known to go with the anchor are no negatives."""

from typing import Any

from torch import Tensor

from repel.negatives.strategy import LogitBlock, Strategy
from repel.negatives.training_pairs import Neighbors, training_pairs

__all__ = ["Known"]


class Known(Strategy):
    """Drop candidates that are in a training pair with the anchor: items of a user, and users of an item.

        w_ij = -inf where (i, j) is a training pair, else 0

    In a batch of pairs, other items that the anchor's user has interacted with would be negatives; models that sample
    negatives leave them out too (Rendle, Freudenthaler, Gantner, Schmidt-Thieme 2009 (BPR), arXiv:1205.2618, sec. 3.2).
    All candidates are looked up: the batch's, the queue's, explicit negatives and the catalog.

    Raises:
        ValueError: the data has no pairs of users and items; or there are no pairs, or no ids (when called).

    >>> import torch
    >>> from types import SimpleNamespace
    >>> known = Known()
    >>> known.on_data(SimpleNamespace(users=2, items=3, pairs=torch.tensor([[0, 0], [0, 1], [1, 1]])))
    >>> block = LogitBlock(torch.zeros(1, 3), torch.zeros(1), torch.ones(1, 3).bool(), 1.0)
    >>> known.keep(block._replace(row_ids=torch.tensor([0]), col_ids=torch.tensor([3, 4, 2])))  # item i is 2 + i
    tensor([[False,  True, False]])
    """

    tilewise = True

    def __init__(self) -> None:
        super().__init__()
        self.neighbors: Neighbors | None = None

    def on_data(self, info: Any) -> None:
        self.neighbors = Neighbors.of(training_pairs(info, "negatives=known"))

    def keep(self, block: LogitBlock) -> Tensor:
        if self.neighbors is None:
            raise ValueError("negatives=known has no training pairs: call on_data with them, as training does")
        if block.row_ids is None or block.col_ids is None:
            raise ValueError("negatives=known finds pairs by ids: call the loss with ids")
        self.neighbors = self.neighbors.to(block.logits.device)  # once
        rows, cols = block.row_ids, block.col_ids
        if block.logits.device.type == "cpu":
            cells = self.neighbors.cells(rows, cols)
            return block.negative.flatten().index_fill(0, cells, False).view(block.negative.shape)
        return block.negative & ~self.neighbors.table(rows, cols)
