"""Features of a whole set, by batches, on one device or shared out over the ranks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repel.base.collectives import gather, rank, world_size
from repel.data.pair import to_float_dtype
from repel.data.samples import Samples

BATCH = 500
RAW_SIDE = 32


@torch.no_grad()
def encode(
    encoder: nn.Module, images: Samples, normalize: Callable[[Tensor], Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(M, F) float32 features h and (M,) the places of their images, in order, the same on every rank.

    All images, but for those that cannot be read where the user asked to go on without them. The encoder runs in eval
    mode, without gradients and without autocast, and is left in the mode it came in. Each rank encodes every W-th batch
    of images and all ranks exchange the results.
    """
    was_training = encoder.training
    encoder.eval()
    dtype = next(encoder.parameters()).dtype
    W = world_size()
    starts = range(0, len(images), BATCH)
    rounds = -(-len(starts) // W)
    # a rank with nothing left repeats the last batch
    turns = [min(turn * W + rank(), len(starts) - 1) * BATCH for turn in range(rounds)]
    mine = []
    for pixels, good in images.plain([torch.arange(start, min(start + BATCH, len(images))) for start in turns]):
        h = encoder(to_float_dtype(normalize(pixels.to(device)), dtype)).float()
        h = torch.cat([h, good.to(h).unsqueeze(1)], dim=1)
        mine.append(torch.cat([h, h.new_zeros(BATCH - len(h), h.shape[1])]))  # equal sizes, as the exchange needs
    encoder.train(was_training)
    shared = gather(torch.stack(mine)).unflatten(0, (W, rounds))  # (W, rounds, BATCH, F + 1)
    h = shared.transpose(0, 1).flatten(0, 2)[: len(images)]
    places = h[:, -1].nonzero().squeeze(1)
    return h[places, :-1], places


def raw_pixels(images: Samples) -> tuple[Tensor, Tensor]:
    """(M, C*h*w) pixels in [0, 1] as features, and (M,) the places of their images, as encode gives them.

    Images above 32 pixels a side are averaged down to 32 first.
    """
    side = min(RAW_SIDE, images.shape[-1])
    pool = torch.nn.functional.adaptive_avg_pool2d
    parts, every = [], []
    for batch, good in images.plain(list(torch.arange(len(images)).split(BATCH))):
        parts.append(pool(batch.float() / 255, side).flatten(1))
        every.append(good)
    good = torch.cat(every)
    return torch.cat(parts)[good], good.nonzero().squeeze(1)


def subset(images: Samples, limit: int | None) -> Samples:
    """At most so many images, evenly spaced over the set sorted by label; all where the limit is None."""
    if limit is None or len(images) <= limit:
        return images
    by_label = torch.arange(len(images)) if images.labels is None else images.labels.argsort(stable=True)
    return images[by_label[torch.arange(limit) * len(images) // limit].sort().values]
