"""Numbers and sums over the negatives of an anchor, in the log domain."""

import torch
from torch import Tensor

__all__ = ["log_count", "logsumexp_of_parts"]


def log_count(number: Tensor, like: Tensor) -> Tensor:
    """log n of each anchor's negatives, (m,), in the logits' precision (the log of an integer tensor is float32)."""
    return number.to(like.dtype).log()


def logsumexp_of_parts(terms: Tensor) -> Tensor:
    """(m,) of parts' (T, m), some of which may be -inf; -inf, without a gradient, where all are.

    >>> logsumexp_of_parts(torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])).tolist()
    [0.0, -inf]
    """
    empty = (terms == -torch.inf).all(0)
    return terms.masked_fill(empty, 0).logsumexp(0).masked_fill(empty, -torch.inf)
