"""Every negative weighs the same."""

from repel.negatives.strategy import Strategy


class Uniform(Strategy):
    """w = 0: plain InfoNCE and NT-Xent, where only the softmax itself favours similar negatives."""
