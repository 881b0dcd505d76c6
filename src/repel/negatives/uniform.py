"""Every negative weighs the same."""

from repel.negatives.strategy import Strategy


class Uniform(Strategy):
    """w = 0: plain InfoNCE and NT-Xent, where only the softmax itself favors similar negatives.

    >>> Uniform().weights(None) is None
    True
    """

    tilewise = True
