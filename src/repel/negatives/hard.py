"""Strategies that keep some negatives and drop the rest: w is 0 or -inf."""

import torch
from torch import Tensor

from repel.negatives.strategy import Rows, Strategy


class TopK(Strategy):
    """The k most similar negatives of each anchor; of equals, the first. k = 1 is the hardest negative.

    Hermans, Beyer, Leibe 2017 (batch hard), arXiv:1703.07737, eq. 5, for k = 1; Faghri et al. 2018 (VSE++),
    arXiv:1707.05612, eq. 6. All of them when k is at least their number: then it is uniform.
    """

    def __init__(self, k: int):
        super().__init__()
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"negatives.k must be a whole number, at least 1, got {k}")
        self.k = k

    def weights(self, rows: Rows) -> Tensor:
        logits = negatives_only(rows)
        hardest = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
        return torch.full_like(logits, -torch.inf).scatter(1, hardest, 0.0)


class Annulus(Strategy):
    """Negatives whose rank by similarity lies in [low * n, high * n) of the anchor's n: neither hardest nor easiest.

    Wu, Mosse, Zhuang, Yamins, Goodman 2021 (ring discrimination), arXiv:2010.02037, sec. 4. low = 0, high = 1 is
    uniform. At least one negative is kept.
    """

    def __init__(self, low: float, high: float):
        super().__init__()
        if not 0 <= low < high <= 1:
            raise ValueError(f"negatives.low and negatives.high must be 0 <= low < high <= 1, got {low} and {high}")
        self.low, self.high = low, high

    def weights(self, rows: Rows) -> Tensor:
        logits = negatives_only(rows)
        order = logits.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)  # the inverse of the permutation
        count = rows.negative.sum(1, keepdim=True)
        # rounded up, with room for the rounding of a product such as 0.3 * 10; the last place is always allowed
        first = (self.low * count - 1e-6).ceil().clamp(max=count - 1)
        end = torch.maximum((self.high * count - 1e-6).ceil(), first + 1)
        return torch.zeros_like(logits).masked_fill((rank < first) | (rank >= end), -torch.inf)


class SemiHard(Strategy):
    """Negatives less similar than the positive, by less than a margin: s_p - margin < s_n < s_p.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), arXiv:1503.03832, eq. 4, for cosine similarities. An anchor that has
    none adds nothing to the loss. With several positives, s_p is their mean.
    """

    def __init__(self, margin: float):
        super().__init__()
        if not margin > 0:
            raise ValueError(f"negatives.margin must be > 0, got {margin}")
        self.margin = margin

    def weights(self, rows: Rows) -> Tensor:
        logits, positive = rows.logits.detach(), rows.positive.detach()[:, None]
        keep = (logits < positive) & (logits > positive - self.margin * rows.scale)
        return torch.zeros_like(logits).masked_fill(~keep, -torch.inf)


class FalseNegatives(Strategy):
    """Drop what is probably no negative: candidates that are too similar, or of the anchor's class.

    Huynh et al. 2022, arXiv:2011.11765, sec. 3.3, elimination.

    Args:
        threshold: candidates with a cosine above it are dropped; 1 or more drops none.
        k: at most this many, the most similar; None: all above the threshold.
        labels: drop by label instead, an upper bound of what detection can gain: training then sees labels.
    """

    def __init__(self, threshold: float, k: int | None, labels: bool):
        super().__init__()
        if k is not None and k < 1:
            raise ValueError(f"negatives.k must be null or at least 1, got {k}")
        self.threshold, self.k, self.supervised = threshold, k, labels

    def weights(self, rows: Rows) -> Tensor:
        logits = negatives_only(rows)
        if self.supervised:
            if rows.row_labels is None:
                raise ValueError("negatives.labels=true needs data with labels")
            drop = (rows.row_labels[:, None] == rows.col_labels) & (rows.row_labels[:, None] >= 0)
        else:
            drop = logits > self.threshold * rows.scale
            if self.k is not None:
                nearest = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
                drop &= torch.zeros_like(drop).scatter(1, nearest, True)
        return torch.zeros_like(logits).masked_fill(drop, -torch.inf)


def negatives_only(rows: Rows) -> Tensor:
    """The logits without gradient, -inf where a candidate is no negative: what a choice is made from."""
    return rows.logits.detach().masked_fill(~rows.negative, -torch.inf)
