"""Features of a whole set, by batches, on one device or shared out over the ranks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repel.base.collectives import gather, rank, world_size
from repel.base.modes import evaluation_mode
from repel.data.pair import to_float_dtype
from repel.data.samples import Samples

__all__ = ["BATCH", "Encoded", "encode", "encode_unless_known", "evenly_spaced", "subset"]

BATCH = 500
CPU_BATCH = 128  # whose activations stay in the cores' caches: a quarter less time for small images


@torch.no_grad()
def encode(
    encoder: nn.Module, samples: Samples, normalize: Callable[[Tensor], Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(M, F) float32 features h and the places (M,) of their samples, in order, the same on every rank.

    M is the number of samples, less those that cannot be read where the user asked to skip them. The encoder runs in
    eval mode, without gradients and without autocast, and each of its parts is left in the mode it came in. Each rank
    encodes every W-th batch, and all ranks exchange the results.
    """
    dtype = next(encoder.parameters()).dtype
    W, size = world_size(), _batch_size(device)
    starts = range(0, len(samples), size)
    rounds = -(-len(starts) // W)
    # a rank with nothing left repeats the last batch
    turns = [min(turn * W + rank(), len(starts) - 1) * size for turn in range(rounds)]
    local = []
    with evaluation_mode(encoder):
        for batch, good in samples.plain([torch.arange(start, min(start + size, len(samples))) for start in turns]):
            x = normalize(batch.to(device))
            h = encoder(to_float_dtype(x, dtype)).float()
            h = torch.cat([h, good.to(h).unsqueeze(1)], dim=1)
            local.append(torch.cat([h, h.new_zeros(size - len(h), h.shape[1])]))  # equal sizes, as the exchange needs
    shared = gather(torch.stack(local)).unflatten(0, (W, rounds))  # (W, rounds, size, F + 1)
    h = shared.transpose(0, 1).flatten(0, 2)[: len(samples)]
    places = h[:, -1].nonzero().squeeze(1)
    return h[places, :-1], places


def _batch_size(device: torch.device) -> int:
    return BATCH if device.type != "cpu" else min(BATCH, CPU_BATCH)


class Encoded(NamedTuple):
    """Samples, their features x (M, F) and places (M,), as encode returned them."""

    samples: Samples
    x: Tensor
    places: Tensor


def encode_unless_known(
    encoder: nn.Module,
    samples: Samples,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    known: Sequence[Encoded],
) -> tuple[Tensor, Tensor]:
    """encode; or of samples that are among the known, what is known, where the first batch is the same to the last bit.

    A network of other weights, or that computes in another way, gives other bits.
    """
    for one in known:
        if one.samples is samples and one.x.device.type == device.type:
            first, places = encode(
                encoder, samples[torch.arange(min(len(samples), _batch_size(device)))], normalize, device
            )
            if torch.equal(first, one.x[: len(first)]) and torch.equal(places, one.places[: len(places)]):
                return one.x, one.places
    return encode(encoder, samples, normalize, device)


def subset(samples: Samples, limit: int | None) -> Samples:
    """At most so many samples, evenly spaced over the set sorted by label; all where the limit is None."""
    if limit is None or len(samples) <= limit:
        return samples
    by_label = torch.arange(len(samples)) if samples.labels is None else samples.labels.argsort(stable=True)
    return samples[by_label[torch.arange(limit) * len(samples) // limit].sort().values]


def evenly_spaced(total: int, limit: int) -> Tensor:
    """At most `limit` of the places 0 .. total - 1, evenly spaced."""
    return torch.arange(min(total, limit)) * total // max(1, min(total, limit))
