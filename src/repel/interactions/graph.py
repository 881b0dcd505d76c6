"""The training graph: users and items are its nodes, a pair is an edge between them."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.base.sized import SizedByData
from repel.data.samples import DataInfo
from repel.interactions.pairs import InteractionInfo

__all__ = ["Adjacency", "Graph", "Kept"]


class Kept:
    """A value that was computed from tensors, until one of them changes.

    A change is another tensor, or a write into it, which torch counts. A write through `.data` is not counted.

    Example:
        >>> kept, x = Kept(), torch.ones(2)
        >>> int(kept.get([x], x.sum)), int(kept.get([x], lambda: 0 / 0)), int(kept.get([x.mul_(2)], x.sum))
        (2, 2, 4)
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.value: Any = None
        self.sources: list[tuple[Tensor, int]] = []
        self.state: Hashable = None

    def get(self, sources: list[Tensor], compute: Callable[[], Any], state: Hashable = None) -> Any:
        """The value for these tensors, computed if it is not there.

        Args:
            state: what else it depends on.
        """
        if any(source.is_inference() for source in sources):  # torch counts no writes into these
            return compute()
        unchanged = [
            source is own and source._version == version
            for source, (own, version) in zip(sources, self.sources, strict=False)
        ]
        if len(unchanged) < len(sources) or not all(unchanged) or state != self.state:
            self.value, self.state = compute(), state
            self.sources = [(source, source._version) for source in sources]
        return self.value

    def __deepcopy__(self, memo: Any) -> "Kept":
        return Kept()  # a copy's tensors have counts of their own

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()


class Adjacency(NamedTuple):
    """A symmetric matrix A (nodes, nodes), in compressed rows.

    starts: (nodes + 1,) int32, row n is at starts[n] .. starts[n + 1] - 1 of the others.
    columns: (2E,) int32.
    values: (2E,), of a floating-point type.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    def times(self, x: Tensor) -> Tensor:
        """A x (nodes, F).

        A sum of weighted rows is what embedding_bag is made for: on a CPU it takes a third of the time of MKL's sparse
        product, see docs/benchmarks/propagation.md.
        """
        values = self.values.to(x.dtype)
        return F.embedding_bag(
            self.columns, x, self.starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )


class Graph(SizedByData):
    """Which nodes each node has an edge to, as checkpoints keep it: 4 bytes an edge and direction.

    Example:
        >>> graph = Graph()
        >>> graph.on_data(InteractionInfo(2, users=1, items=2, pairs=torch.tensor([[0, 1], [0, 0]], dtype=torch.int32)))
        >>> graph.starts.tolist(), graph.columns.tolist()
        ([0, 2, 3, 4], [1, 2, 0, 0])
    """

    shows_data = True
    starts: Tensor
    columns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(1, dtype=torch.int32))  # (nodes + 1,)
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))  # (2E,), neighbors, sorted within a node
        self._normalized, self._twins = Kept(), Kept()

    @property
    def nodes(self) -> int:
        return len(self.starts) - 1

    @property
    def edges(self) -> int:
        """E, each counted once."""
        return len(self.columns) // 2

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, InteractionInfo)
        assert info.pairs is not None
        nodes = info.users + info.items
        user, item = info.pairs[:, 0].long(), info.users + info.pairs[:, 1].long()
        cells = torch.cat([user * nodes + item, item * nodes + user]).sort().values
        starts = torch.zeros(nodes + 1, dtype=torch.int32)
        starts[1:] = torch.bincount(cells // nodes, minlength=nodes).cumsum(0)
        self.starts, self.columns = starts.to(self.starts.device), (cells % nodes).int().to(self.columns.device)

    def adjacency(self, kept: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Adjacency:
        """D^-1/2 A D^-1/2, where D holds the nodes' degrees.

        Args:
            kept: (E,) bool, the edges that are there, see `both_ways`; None: all, which is computed once and kept.
            dtype: of the values.
        """
        if kept is not None:
            return Adjacency(self.starts, self.columns, self._normalize(self.both_ways(kept), dtype))
        everything = lambda: self._normalize(torch.ones_like(self.columns, dtype=torch.bool), torch.float64)  # noqa: E731
        values = self._normalized.get([self.starts, self.columns], everything)
        return Adjacency(self.starts, self.columns, values.to(dtype))

    def both_ways(self, of_edges: Tensor) -> Tensor:
        """(E,) of each edge, user after user -> (2E,), as the columns stand: first from users, then from items."""
        twins = self._twins.get([self.columns], lambda: self.columns[: self.edges].sort(stable=True).indices.int())
        return torch.cat([of_edges, of_edges.index_select(0, twins)])

    def _normalize(self, kept: Tensor, dtype: torch.dtype) -> Tensor:
        """(2E,) bool -> values. A node without an edge has none."""
        before = F.pad(kept.cumsum(0, dtype=torch.int32), (1, 0)).index_select(0, self.starts)
        factor = before.diff().to(dtype).rsqrt()
        rows = torch.repeat_interleave(factor, self.starts.diff(), output_size=len(self.columns))
        # where: the factor of a node without an edge is infinite
        return torch.where(kept, rows * factor.index_select(0, self.columns), 0)
