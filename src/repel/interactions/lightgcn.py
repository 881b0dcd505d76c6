"""Graph convolution over the training pairs: an encoder of users and items."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.dropout import DrawCounters
from repel.base.hashing import GOLDEN, signed
from repel.data.pair import ViewBatch
from repel.interactions import augmentation
from repel.interactions.encoders import ItemBias, NodeVectors, as_nodes
from repel.interactions.graph import Adjacency, Graph, Kept
from repel.interactions.propagation import Pass, layer_mean, propagate

__all__ = ["LightGCN"]

AUGMENT = ("none", "edges", "nodes", "noise", "layers")


class LightGCN(nn.Module):
    """A vector for each user and item, averaged over neighborhoods of the training graph.

        E_0 learned,  E_l = A E_(l-1),  features = mean over l of E_l,  A = D^-1/2 (0 R; R' 0) D^-1/2

    He et al. 2020, arXiv:2002.02126, eq. 3, 4 and 8: R says which pairs are in the training data, D holds the degrees.

    In training there are augmented graphs beside this one, which views may show, see views.PairViews:

    - edges, nodes: a graph keeps each edge, or each node with its edges, with probability 1 - rate, and A is of the
      degrees that are left (SGL: Wu et al. 2021, arXiv:2010.10783, eq. 7 and 8). Theirs are drawn once an epoch, and
      SGL-Torch leaves out a fixed number of edges, or of users and of items; here each step draws, each edge by itself.
    - noise: to each layer but E_0, sign(E_l) u is added, u a vector of length `noise` and random direction, all of its
      elements above 0 (SimGCL: Yu et al. 2022, arXiv:2112.08679, eq. 7; E_0 is left out by first_layer=False).
    - layers: one pass with such noise; graph 0 is its mean, also for the recommendation, graph 1 its layer
      `contrast_layer` (XSimGCL: Yu et al. 2023, arXiv:2209.02544, eq. 11).

    Outside training every view shows the training graph.

    With leave_pair_out, the edge of a pair is left out of what its own user and item see in training, which otherwise
    hold the answer (Zhu et al. 2024, SpotTarget, arXiv:2306.00899):

        h_u - a_ui (mean over l < L of E_l)_i,  h_i - a_ui (mean over l < L of E_l)_u,  the means divided as features'

    exactly so for L <= 2; for more layers walks that come back to u over other items, and then take the edge, stay in.

    What is drawn is a function of seed, epoch, step and graph: the same on every rank, device and after a resume.

    In training all nodes are propagated in every step, forward and backward, 2 L E F multiplications a graph each way
    for E pairs. In evaluation once: the result is kept until the weights change or training goes on (a write through
    `.data` in between goes unseen). Computed in float32 under autocast and for weights of half precision.

    Args:
        width: F, dimensions of a vector.
        layers: L, at least 1.
        first_layer: whether the mean has layer 0, the nodes' own vectors.
        augment: none, edges, nodes, noise or layers.
        rate: share of edges or nodes that are left out, at least 0 and below 1.
        noise: length of the noise, 0 or more.
        graphs: how many augmented graphs there are, for edges, nodes and noise.
        contrast_layer: which layer is graph 1, for layers, 1 .. L.
        leave_pair_out: see above.
        item_bias: see ItemBias, which takes two of the dimensions.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> from repel.data.samples import give_info
        >>> from repel.interactions.pairs import InteractionInfo
        >>> encoder = LightGCN(width=4, layers=2, augment="edges", graphs=1)
        >>> give_info(encoder, InteractionInfo(2, users=1, items=2, pairs=torch.tensor([[0, 0], [0, 1]])))
        >>> encoder(torch.tensor([[0, 0], [2, 1]])).shape
        torch.Size([2, 4])
    """

    propagates = True  # a pass computes the features of all nodes, whatever the batch
    key: Tensor

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        first_layer: bool = True,
        augment: str = "none",
        rate: float = 0.1,
        noise: float = 0.1,
        graphs: int = 2,
        contrast_layer: int = 1,
        leave_pair_out: bool = False,
        item_bias: bool = False,
    ):
        super().__init__()
        _check(augment, layers=(layers, 1, None), graphs=(graphs, 1, 127), contrast_layer=(contrast_layer, 1, layers))
        if not 0 <= rate < 1:
            raise ValueError(f"encoder.rate must be at least 0 and below 1, got {rate}")
        if noise < 0:
            raise ValueError(f"encoder.noise must be 0 or more, got {noise}")
        self.out_features, self.augment, self.rate, self.noise = width, augment, rate, noise
        self.graphs = {"none": 0, "layers": 1}.get(augment, graphs)
        self.mean = layer_mean(layers, first_layer)
        self.contrast = [float(layer == contrast_layer) for layer in range(layers + 1)]
        self.before = [*self.mean[1:], 0.0] if leave_pair_out else None  # what a node's edges carry on of each layer
        self.bias = ItemBias(width) if item_bias else None
        self.vectors, self.graph = NodeVectors(width if self.bias is None else self.bias.left), Graph()
        # a tensor, as a compiled network would be compiled again for each value of a number
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)
        self._step: int | None = None  # the key as a number, where counters gave it
        self._pairs: int | None = None  # B where the pass shows B pairs, 0 where others; None: not known
        self._tables = Kept()

    def train(self, mode: bool = True) -> "LightGCN":
        self._tables.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LightGCN":
        """What .to(), .half() and the like call."""
        self._tables.clear()
        return super()._apply(fn, recurse)

    def on_pass(self, counters: DrawCounters | None, part: int) -> None:
        """See base.dropout.NeedsCounters: what is drawn is the same for all ranks and passes of a step."""
        self._pairs = None if counters is None else counters.samples if counters.view == 0 else 0
        self._step = None if counters is None else signed(counters.key + (part + 1) * GOLDEN, 64)
        if self._step is not None:
            self.key.fill_(self._step)

    def forward(self, x: ViewBatch) -> Tensor:
        nodes, graphs = as_nodes(x).unbind(1)
        tables = self.tables()
        rows = nodes + graphs * self.graph.nodes if self.training else nodes  # views of validation name graphs too
        h = F.embedding(rows, tables.flatten(0, 1))
        if self.training and self.before is not None:
            pairs = len(x[0]) if isinstance(x, tuple) else self._pairs
            if pairs is None:
                raise ValueError(
                    "encoder.leave_pair_out must know which nodes are pairs: pass a tuple, users and items"
                )
            h = self._without_pairs(h, nodes[:pairs], nodes[pairs : 2 * pairs], tables[-1]) if pairs else h
        h = h.to(self.vectors.weight.dtype)
        return h if self.bias is None else self.bias(h, nodes)

    def _without_pairs(self, h: Tensor, users: Tensor, items: Tensor, before: Tensor) -> Tensor:
        """Features (n, F), which begin with those of B pairs, without what these pairs' own edges carried."""
        degrees = self.graph.starts.diff().to(h.dtype)
        weight = (degrees[users] * degrees[items]).rsqrt()[:, None]
        carried = torch.cat([F.embedding(items, before) * weight, F.embedding(users, before) * weight])
        return torch.cat([h[: len(carried)] - carried, h[len(carried) :]])

    @torch.compiler.disable
    def tables(self) -> Tensor:
        """(1 + graphs, nodes, F), in evaluation (1, nodes, F): the features of all nodes in each graph.

        Propagated once for all passes of a training step, up to its backward pass, and once in evaluation.
        """
        differentiable = torch.is_grad_enabled()
        if self._step is None if self.training else differentiable:
            return self._propagated()
        sources = [self.vectors.weight, self.graph.starts, self.graph.columns]
        return self._tables.get(sources, self._propagated, (self.training, differentiable, self._step))

    def _propagated(self) -> Tensor:
        weight = self.vectors.weight
        if self.training and self._step is None:
            self.key.random_()
        with torch.autocast(weight.device.type, enabled=False):
            x = weight if weight.dtype == torch.float64 else weight.float()
            tables = propagate(x, self._passes(x.dtype))
        if tables.requires_grad:
            tables.register_hook(lambda gradient: self._tables.clear())
        return tables

    def _passes(self, dtype: torch.dtype) -> list[Pass]:
        clean, numbers = self.graph.adjacency(dtype=dtype), range(1, self.graphs + 1)
        if not self.training:
            return [Pass(clean, [self.mean])]
        before = [] if self.before is None else [self.before]
        if self.augment == "layers":
            return [Pass(clean, [self.mean, self.contrast, *before], augmentation.add_noise(self.key, 1, self.noise))]
        if self.augment == "noise":
            others = [Pass(clean, [self.mean], augmentation.add_noise(self.key, n, self.noise)) for n in numbers]
        else:
            others = [Pass(self._dropped(number, dtype), [self.mean]) for number in numbers]
        if not others:
            return [Pass(clean, [self.mean, *before])]
        return [Pass(clean, [self.mean]), *others, *(Pass(clean, [output]) for output in before)]

    def _dropped(self, number: int, dtype: torch.dtype) -> Adjacency:
        """The graph without some of its edges, or nodes."""
        if self.augment == "edges":
            kept = augmentation.kept(self.key, number, self.graph.edges, self.rate)
        else:
            nodes = augmentation.kept(self.key, number, self.graph.nodes, self.rate)
            kept = augmentation.edges_between(nodes, self.graph)
        return self.graph.adjacency(kept, dtype)


def _check(augment: str, **numbers: tuple[int, int, int | None]) -> None:
    if augment not in AUGMENT:
        raise ValueError(f"encoder.augment must be one of {', '.join(AUGMENT)}, got {augment!r}")
    for name, (value, least, most) in numbers.items():
        if value < least or (most is not None and value > most):
            words = f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"encoder.{name} must be {words}, got {value}")
