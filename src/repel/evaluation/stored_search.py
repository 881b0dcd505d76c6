"""Nearest neighbors among features in a file, which is read once for many queries."""

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.evaluation.stored_features import Features, numbered_blocks

__all__ = ["queries_at_once", "stored_neighbors"]

QUERIES = 2**28  # bytes of queries in float32 for which the bank is read once


def queries_at_once(features: int, block: int) -> int:
    """How many queries of so many features, in whole blocks, the bank is read for once.

    >>> queries_at_once(features=2048, block=1024)
    32768
    """
    return max(1, QUERIES // (4 * features * block)) * block


def stored_neighbors(
    bank: Features, queries: Features, k: int, block: int, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """knn.nearest_neighbors, where the bank, the queries or both are stored.

    Args:
        block: queries that are compared at a time.
        own: (Q,) the queries' own places in the bank, which are left out; on the queries' device.
    """
    size = queries_at_once(queries.shape[1], block)
    groups = [_search(bank, F.normalize(queries[start : start + size], dim=1), k, block,
                      None if own is None else own[start : start + size])
              for start in range(0, max(1, len(queries)), size)]  # fmt: skip
    return torch.cat([values for values, _ in groups]), torch.cat([places for _, places in groups])


def _search(bank: Features, queries: Tensor, k: int, block: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of unit queries, in one pass through the bank: the best so far, beside the best of a block of the bank."""
    if not len(queries):  # of a rank that has none
        return queries.new_zeros(0, min(k, len(bank))), queries.new_zeros(0, min(k, len(bank)), dtype=torch.int64)
    parts = queries.split(block)
    owned = [None] * len(parts) if own is None else own.split(block)
    values = [part.new_zeros(len(part), 0) for part in parts]
    places = [torch.zeros(len(part), 0, dtype=torch.int64, device=part.device) for part in parts]
    for start, rows in numbered_blocks(bank):
        columns = F.normalize(rows, dim=1).T
        for i, (part, left_out) in enumerate(zip(parts, owned, strict=True)):
            similarity = part @ columns
            if left_out is not None:
                here = ((left_out >= start) & (left_out < start + len(rows))).nonzero().squeeze(1)
                similarity[here, left_out[here] - start] = -torch.inf
            top = similarity.topk(min(k, len(rows)), dim=1)
            both = torch.cat([values[i], top.values], dim=1), torch.cat([places[i], top.indices + start], dim=1)
            values[i], order = both[0].topk(min(k, both[0].shape[1]), dim=1)
            places[i] = both[1].gather(1, order)
    return torch.cat(values), torch.cat(places)
