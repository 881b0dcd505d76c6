"""What strategies know of the training pairs of users and items: their number for each, and who goes with whom.

Plain tensors, no buffers: they would be in every checkpoint, and DDP would send them to all ranks in every step. They
are a function of the data, which is read again when a run resumes.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from repel.negatives.strategy import LogitBlock

__all__ = ["Neighbors", "Shares", "TrainingPairs", "training_pairs"]


@runtime_checkable
class TrainingPairs(Protocol):
    """What strategies ask of DataInfo (repel/data/samples.py).

    pairs: (E, 2) whole numbers, the user, 0 .. users - 1, and the item, 0 .. items - 1, of each. As entities, which ids
    name, users are counted first: item i is users + i.
    """

    @property
    def users(self) -> int: ...

    @property
    def items(self) -> int: ...

    @property
    def pairs(self) -> Tensor: ...


def training_pairs(info: Any, typed: str) -> TrainingPairs:
    """What was given, if it has pairs; ValueError, for a strategy that was chosen as `typed`, if it has none."""
    if not isinstance(info, TrainingPairs) or info.pairs is None:
        raise ValueError(f"{typed} is for pairs of users and items, and this data brings none; choose other negatives")
    return info


class Shares(NamedTuple):
    """How often each entity is in a training pair.

    counts: (users + items,) int64. pairs: E.
    """

    counts: Tensor
    users: int
    pairs: int

    @classmethod
    def of(cls, data: TrainingPairs) -> "Shares":
        """
        >>> from types import SimpleNamespace
        >>> pairs = torch.tensor([[0, 0], [0, 1], [1, 1]])
        >>> Shares.of(SimpleNamespace(users=2, items=3, pairs=pairs)).counts.tolist()
        [2, 1, 1, 2, 0]
        """
        sides = [torch.bincount(data.pairs[:, s].long(), minlength=n) for s, n in ((0, data.users), (1, data.items))]
        return cls(torch.cat(sides), data.users, max(1, len(data.pairs)))

    def to(self, device: torch.device) -> "Shares":
        return self if self.counts.device == device else self._replace(counts=self.counts.to(device, non_blocking=True))

    def log_q(self, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """log of the share of all pairs that each entity has; one that is in none counts as if it were in one."""
        return self.counts[ids].clamp(min=1).to(dtype).log() - float(np.log(self.pairs))

    def log_uniform(self, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """log of 1 / the number of entities of the same side; unknown ones, -1, are items."""
        users, items = float(np.log(self.users)), float(np.log(len(self.counts) - self.users))
        is_user = (ids >= 0) & (ids < self.users)
        return torch.full_like(ids, -items, dtype=dtype).masked_fill(is_user, -users)

    def log_drawn(self, block: LogitBlock) -> Tensor:
        """log of the probability with which each candidate of a block was drawn, (n,).

        That of a batch or a queue has its share of the training pairs; an explicit negative, the catalog, and what is
        unknown have the share of a uniform draw.
        """
        ids, dtype = block.col_ids, block.logits.dtype
        assert ids is not None
        batch = len(ids) - block.explicit[0] * block.explicit[1] - block.catalog
        in_batch = torch.arange(len(ids), device=ids.device) < batch
        return torch.where(in_batch & (ids >= 0), self.log_q(ids.clamp(min=0), dtype), self.log_uniform(ids, dtype))


class Neighbors(NamedTuple):
    """Who goes with whom, from both sides, as rows of a sparse matrix (CSR).

    starts: (nodes + 1,) int64; the neighbors of entity v are others[starts[v] : starts[v + 1]].
    others: (2 E,) int32.
    most: (nodes + 1,), how many neighbors so many different entities have together at most; on the host.
    """

    starts: Tensor
    others: Tensor
    most: np.ndarray

    @classmethod
    def of(cls, data: TrainingPairs) -> "Neighbors":
        """
        >>> from types import SimpleNamespace
        >>> graph = Neighbors.of(SimpleNamespace(users=2, items=3, pairs=torch.tensor([[0, 0], [0, 1], [1, 1]])))
        >>> graph.starts.tolist(), graph.others.tolist(), graph.most.tolist()
        ([0, 2, 3, 4, 6, 6], [2, 3, 3, 0, 0, 1], [0, 2, 4, 5, 6, 6])
        """
        users, items = (data.pairs[:, side].to(torch.int32) for side in (0, 1))
        both = torch.cat([users, items + data.users])
        others = torch.cat([items + data.users, users])[both.argsort(stable=True)]
        degree = torch.bincount(both, minlength=data.users + data.items)
        starts = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
        most = np.concatenate([[0], degree.sort(descending=True).values.cumsum(0).cpu().numpy()])
        return cls(starts, others, most)

    def to(self, device: torch.device) -> "Neighbors":
        if self.starts.device == device:
            return self
        starts, others = (part.to(device, non_blocking=True) for part in (self.starts, self.others))
        return self._replace(starts=starts, others=others)

    def cells(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Places i * n + j of the neighbors among entities rows (m,) and cols (n,), each once.

        Goes through each row's own neighbors: the time grows with their number, not with m * n. How many there are is
        asked of the device, which costs nothing on a CPU.
        """
        in_order, by_entity = cols.sort()
        shown, counts = torch.unique_consecutive(in_order, return_counts=True)
        number = cols.new_zeros(len(self.starts))  # of an entity among `shown`, from 1; -1, unknown, is the last place
        number[shown] = torch.arange(1, len(shown) + 1, device=cols.device)
        row, edge = _spread(self.starts[rows + 1] - self.starts[rows], self.starts[rows])
        found = number.index_select(0, self.others.index_select(0, edge))
        there = found.nonzero().squeeze(1)
        row, found = row.index_select(0, there), found.index_select(0, there) - 1
        # all columns that show the entity
        which, place = _spread(counts.index_select(0, found), (counts.cumsum(0) - counts).index_select(0, found))
        return row.index_select(0, which) * len(cols) + by_entity.index_select(0, place)

    def table(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Whether entities rows (m,) and cols (n,) are neighbors, (m, n) bool, without waiting for a device.

        Of rows that show one entity one is looked through, so that there is a bound on the neighbors in all.
        """
        m, n, nodes = len(rows), len(cols), len(self.starts) - 1
        bound = int(self.most[min(m, nodes)])
        row_number, col_number = (torch.arange(len(ids), device=ids.device) for ids in (rows, cols))
        row_of, col_of = cols.new_zeros(nodes + 1), cols.new_full((nodes + 1,), n)  # -1, unknown, is the last place
        row_of[rows], col_of[cols] = row_number, col_number  # any of those that show the entity
        own_row = row_of[rows]
        lengths = (self.starts[rows + 1] - self.starts[rows]) * (own_row == row_number)
        lengths = torch.cat([lengths, (bound - lengths.sum())[None]])  # the rest, up to the bound, into a row too many
        begins = torch.cat([self.starts[rows], self.starts[:1]])
        row, edge = _spread(lengths, begins, bound)
        found = torch.zeros((m + 1) * (n + 1), dtype=torch.bool, device=rows.device)
        if bound:
            found.index_fill_(0, row * (n + 1) + col_of[self.others[edge.clamp(max=len(self.others) - 1)]], True)
        return found.view(m + 1, n + 1)[own_row][:, col_of[cols]]


def _spread(lengths: Tensor, begins: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Ranges begins[i], begins[i] + 1, .. of lengths[i] numbers: which range each number is of, and the numbers.

    >>> _spread(torch.tensor([2, 0, 1]), torch.tensor([5, 7, 9]))
    (tensor([0, 0, 2]), tensor([5, 6, 9]))
    """
    which = torch.repeat_interleave(lengths, output_size=total)
    offset = begins - (lengths.cumsum(0) - lengths)
    return which, torch.arange(len(which), device=which.device) + offset.index_select(0, which)
