"""Counted randomness: every draw is a pure function of the run's seed and of its place (epoch, step, ...).

A resumed run therefore needs no generator state, and W ranks draw what one rank would draw.
"""

import numpy as np
import torch

__all__ = ["generator", "mix", "seed_default_generator"]

# one stream each, so that equal counters never collide
ORDER, VIEWS, VALIDATION, NETWORK, SPLIT, PREVIEW, MIXTURES = range(7)
FEW_LABELS, EPISODES, CORRUPTION, PROBE, VALIDATION_ORDER = range(7, 12)
DROPOUT, RANDOM_NEGATIVES = 12, 13


def mix(*counters: int) -> int:
    """Hash integers >= 0 into one of 63 bits, by numpy's SeedSequence.

    Example:
        >>> mix(1, ORDER, 0) == mix(1, ORDER, 0), mix(1, ORDER, 0) == mix(1, VIEWS, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*counters: int) -> torch.Generator:
    """A CPU generator whose state depends on the counters alone.

    Example:
        >>> torch.rand(2, generator=generator(1, VIEWS, 0)).equal(torch.rand(2, generator=generator(1, VIEWS, 0)))
        True
    """
    return torch.Generator().manual_seed(mix(*counters))


def seed_default_generator(seed: int, device: torch.device) -> None:
    """Seed what a device draws from where no generator is named.

    On the CPU without torch.manual_seed, which takes a stack trace for each kind of device that is not in use: 0.8 ms.

    Example:
        >>> seed_default_generator(1, torch.device("cpu"))
        >>> torch.rand(2).equal(torch.rand(2, generator=torch.Generator().manual_seed(1)))
        True
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
