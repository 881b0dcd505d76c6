"""Batches beyond memory: a network runs over parts of the batch, and the gradient is that of the whole (GradCache)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _NormBase

from repel.base import seeding
from repel.base.collectives import share
from repel.base.dropout import DrawCounters, NeedsCounters, give_counters

__all__ = ["Network", "in_micro_batches", "micro_batches"]

Views = Tensor | tuple[Tensor, ...]
Network = Callable[[Any], tuple[Tensor, ...]]


def micro_batches(samples: int, size: int) -> list[slice]:
    """The parts of a batch: as few as can be of at most `size` samples, whose sizes differ by at most one.

    >>> micro_batches(10, 4)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    count = -(-samples // size)
    return [share(samples, number, count) for number in range(count)]


def in_micro_batches(
    network: Network,
    x: Views,
    counters: DrawCounters,
    size: int | None,
    modules: Sequence[nn.Module | None],
    counted: Sequence[NeedsCounters] = (),
) -> tuple[Tensor, ...]:
    """network(x), computed for `size` samples at a time, forward and backward: the same outputs and gradients.

    Gao, Zhang, Han, Callan 2021 (GradCache), arXiv:2101.06983, sec. 3.2: a pass without a graph gives the outputs of
    the whole batch. A loss of these, of any kind, has a gradient with respect to them. Backward computes each part
    again, this time with its graph, and hands it its share of this gradient. So activations of one part alone are
    held, each part is computed twice, and negatives do not get fewer, as they do where gradients are accumulated.

    The second pass repeats the first: own dropout draws by the samples' places in the global batch, that of other
    libraries from torch's generators, which are seeded anew for each part; autocast is as it was; and running
    statistics do not learn from it. Batch norm sees the views of one part together. A parameter gets its gradient
    once, summed over the parts in float32 at least, so that several ranks exchange it once, at the end, as always.

    Args:
        network: an input -> outputs, each (rows, ...); a gradient flows through the first one alone. A function of its
            input, its parameters and its draws.
        x: (V*B, ...), the views of B samples, view after view; or a tuple of such.
        counters: which samples of the global batch they are.
        size: samples of a part, at most; None: all at once, and once only.
        modules: which the network consists of, as far as they learn; None where there is none.
        counted: its parts that draw from counters.

    Returns:
        The outputs for all rows, in the order of x.

    >>> layer, x = nn.Linear(3, 2), torch.randn(8, 3)
    >>> (z,) = in_micro_batches(lambda part: (layer(part),), x, DrawCounters(key=1, samples=4), 2, [layer])
    >>> whole, parts = (torch.autograd.grad(out.logsumexp(0).sum(), layer.weight)[0] for out in (layer(x), z))
    >>> torch.allclose(whole, parts)
    True
    """
    if size is None or counters.samples <= size:
        give_counters(counted, counters)
        return network(x)
    present = [module for module in modules if module is not None]
    learned = [p for module in present for p in module.parameters() if p.requires_grad]
    kind = (x[0] if isinstance(x, tuple) else x).device.type
    autocast = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
    seed = torch.initial_seed()  # the step's, or that of the pass before
    return _Replayed.apply(_Passes(network, x, counters, size, present, counted, autocast, seed), *learned)


class _Passes(NamedTuple):
    """What both passes over the parts need; see in_micro_batches."""

    network: Network
    x: Views
    counters: DrawCounters
    size: int
    modules: Sequence[nn.Module]
    counted: Sequence[NeedsCounters]
    autocast: dict[str, Any]
    seed: int

    @property
    def parts(self) -> list[slice]:
        return micro_batches(self.counters.samples, self.size)

    def outputs(self, part: slice) -> tuple[Tensor, ...]:
        """Of some of the samples."""
        key, samples, start, view = self.counters
        own = DrawCounters(key, part.stop - part.start, start + part.start, view)
        give_counters(self.counted, own)
        torch.manual_seed(seeding.mix(self.seed, part.start))  # what other libraries draw from
        kind = (self.x[0] if isinstance(self.x, tuple) else self.x).device.type
        with torch.autocast(kind, **self.autocast):
            return self.network(_cut(self.x, part, samples))

    @contextmanager
    def keep_statistics(self) -> Iterator[None]:
        """A context after which running statistics are what they were before it."""
        norms = [part for module in self.modules for part in module.modules() if isinstance(part, _NormBase)]
        kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
        yield
        for buffer, value in kept:
            buffer.copy_(value)


class _Replayed(torch.autograd.Function):
    """Two passes over the parts. It differs from torch.utils.checkpoint in that forward keeps no graph at all, and that
    gradients are summed in float32 also under autocast.

    What outlives a part has its memory before it: small pieces between the large ones that are freed would make the
    heap of a CPU process grow to several times of what is in use.
    """

    @staticmethod
    def forward(ctx: Any, passes: _Passes, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.passes, samples, whole = passes, passes.counters.samples, []
        ctx.save_for_backward(*parameters)  # so that a change of theirs before the second pass is an error
        for part in passes.parts:
            for number, rows in enumerate(passes.outputs(part)):
                views, *shape = rows.unflatten(0, (-1, part.stop - part.start)).shape
                if not part.start:
                    whole.append(rows.new_empty(views, samples, *shape[1:]))
                whole[number][:, part] = rows.view(views, *shape)
        outputs = tuple(rows.flatten(0, 1) for rows in whole)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        passes, parameters = ctx.passes, ctx.saved_tensors
        exact = [torch.promote_types(p.dtype, torch.float32) for p in parameters]
        totals, used = [torch.zeros_like(p, dtype=d) for p, d in zip(parameters, exact, strict=True)], set()
        with passes.keep_statistics():
            for part in passes.parts:
                with torch.enable_grad():
                    z = passes.outputs(part)[0]
                if not z.requires_grad:  # the network gives its output without one, as a target does
                    break
                own = _cut(gradient, part, passes.counters.samples)
                # grad() in place of backward(): a parameter's hooks, such as DDP's, must see its whole gradient once
                for number, found in enumerate(torch.autograd.grad(z, parameters, own, allow_unused=True)):
                    if found is not None:
                        totals[number].add_(found)
                        used.add(number)
        return None, *(
            t.to(p.dtype) if n in used else None for n, (t, p) in enumerate(zip(totals, parameters, strict=True))
        )


def _cut(x: Any, part: slice, samples: int) -> Any:
    """The rows (V*B, ...) of some of the B samples; of a tuple, of each side."""
    if isinstance(x, tuple):
        return tuple(_cut(side, part, samples) for side in x)
    return x.unflatten(0, (len(x) // samples, samples))[:, part].flatten(0, 1)
