"""Randomness that is counted, not stored: every draw is a pure function of the run's seed and of where it happens.

So a resumed run needs no generator state, and W ranks draw what one rank would have drawn.
"""

import numpy as np
import torch

# one stream each, so that equal counters never collide
ORDER, VIEWS, VALIDATION, NETWORK, SPLIT, PREVIEW, MIXTURES = range(7)
FEW_LABELS, EPISODES, CORRUPTION, PROBE = range(7, 11)


def mix(*counters: int) -> int:
    """Hash non-negative integers into 63 bits, by numpy's SeedSequence."""
    return int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> 1)


def generator(*counters: int) -> torch.Generator:
    """A CPU generator that depends on the counters alone."""
    return torch.Generator().manual_seed(mix(*counters))
