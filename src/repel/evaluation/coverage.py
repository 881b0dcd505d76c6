"""Labels that a classifier cannot get right, because nothing it learned from has them."""

from torch import Tensor, isin

__all__ = ["ceiling", "count_new"]


def count_new(known: Tensor, truth: Tensor) -> int:
    """How many of the labels `truth` (N,) are not among `known` (M,).

    >>> count_new(torch.tensor([0, 1]), torch.tensor([1, 1, 2]))
    1
    """
    return int((~isin(truth, known)).sum())


def ceiling(known: Tensor, truth: Tensor) -> dict[str, float]:
    """The highest accuracy there can be, for a score's settings; empty where that is 1.

    Args:
        known: (M,) labels of what a classifier learned from.
        truth: (N,) labels that it is asked for.

    >>> ceiling(torch.tensor([0, 1]), torch.tensor([1, 1, 2, 3]))
    {'ceiling': 0.5}
    """
    new = count_new(known, truth)
    return {"ceiling": round(1 - new / len(truth), 6)} if new else {}
