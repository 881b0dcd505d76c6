"""Features of a whole set, by batches, on one device or shared out over the ranks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repel.data.images import Images
from repel.distributed import gather, rank, world_size

BATCH = 500
RAW_SIDE = 32


@torch.no_grad()
def encode(encoder: nn.Module, images: Images, normalize: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """(N, F) float32 features h in the order of the images, the same on every rank.

    The encoder runs in eval mode, without gradients and without autocast, and is left in the mode it came in. Each
    rank encodes every W-th batch of images and all ranks exchange the results.
    """
    was_training = encoder.training
    encoder.eval()
    dtype = next(encoder.parameters()).dtype
    W = world_size()
    starts = range(0, len(images), BATCH)
    rounds = -(-len(starts) // W)
    mine = []
    for turn in range(rounds):
        start = min(turn * W + rank(), len(starts) - 1) * BATCH  # a rank with nothing left repeats the last batch
        pixels = images.pixels[start : start + BATCH].to(device)
        h = encoder(normalize(pixels).to(dtype)).float()
        mine.append(torch.cat([h, h.new_zeros(BATCH - len(h), h.shape[1])]))  # equal sizes, as the exchange needs
    encoder.train(was_training)
    shared = gather(torch.stack(mine)).unflatten(0, (W, rounds))  # (W, rounds, BATCH, F)
    return shared.transpose(0, 1).flatten(0, 2)[: len(images)]


def raw_pixels(images: Images) -> Tensor:
    """(N, C*h*w) pixels in [0, 1] as features; images above 32 pixels a side are averaged down to 32 first."""
    side = min(RAW_SIDE, images.pixels.shape[-1])
    pool = torch.nn.functional.adaptive_avg_pool2d
    parts = [pool(batch.float() / 255, side).flatten(1) for batch in images.pixels.split(BATCH)]
    return torch.cat(parts)
