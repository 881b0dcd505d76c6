"""Strategies that keep some negatives and drop the rest: w is 0 or -inf."""

import torch
from torch import Tensor

from repel.negatives.strategy import LogitBlock, Strategy, negatives_only, same_class


class TopK(Strategy):
    """The k most similar negatives of each anchor; of equals, the first.

    Hermans, Beyer, Leibe 2017 (batch hard), arXiv:1703.07737, eq. 5, for k = 1; Faghri et al. 2018 (VSE++),
    arXiv:1707.05612, eq. 6. All of them when k is at least their number: then it is uniform.

    Args:
        k: how many, at least 1.

    Raises:
        ValueError: k is no whole number, or below 1.

    >>> block = LogitBlock(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2.5]), torch.ones(1, 3).bool(), 4.0)
    >>> TopK(k=2).weights(block)
    tensor([[0., -inf, 0.]])
    """

    def __init__(self, k: int = 16):
        super().__init__()
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"negatives.k must be a whole number, at least 1, got {k}")
        self.k = k

    def weights(self, block: LogitBlock) -> Tensor:
        logits = negatives_only(block)
        hardest = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
        return torch.full_like(logits, -torch.inf).scatter(1, hardest, 0.0)


class Hardest(TopK):
    """The most similar negative alone: TopK of one.

    >>> block = LogitBlock(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2.5]), torch.ones(1, 3).bool(), 4.0)
    >>> Hardest().weights(block)
    tensor([[0., -inf, -inf]])
    """

    def __init__(self, k: int = 1):
        super().__init__(k)


class Annulus(Strategy):
    """Negatives whose rank by similarity lies in [low * n, high * n) of the anchor's n: neither hardest nor easiest.

    Wu, Mosse, Zhuang, Yamins, Goodman 2021 (ring discrimination), arXiv:2010.02037, sec. 4. low = 0, high = 1 is
    uniform. At least one negative is kept.

    Args:
        low, high: shares, 0 <= low < high <= 1.

    Raises:
        ValueError: low or high is out of its range.

    >>> block = LogitBlock(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2.5]), torch.ones(1, 3).bool(), 4.0)
    >>> Annulus(low=0.3, high=0.6).weights(block)
    tensor([[-inf, -inf, 0.]])
    """

    def __init__(self, low: float = 0.01, high: float = 0.5):
        super().__init__()
        if not 0 <= low < high <= 1:
            raise ValueError(f"negatives.low and negatives.high must be 0 <= low < high <= 1, got {low} and {high}")
        self.low, self.high = low, high

    def weights(self, block: LogitBlock) -> Tensor:
        logits = negatives_only(block)
        order = logits.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)  # the inverse of the permutation
        count = block.negative.sum(1, keepdim=True)
        # rounded up, with room for the rounding of a product such as 0.3 * 10; the last place is always allowed
        first = (self.low * count - 1e-6).ceil().clamp(max=count - 1)
        end = torch.maximum((self.high * count - 1e-6).ceil(), first + 1)
        return torch.zeros_like(logits).masked_fill((rank < first) | (rank >= end), -torch.inf)


class SemiHard(Strategy):
    """Negatives less similar than the positive, by less than a margin: s_p - margin < s_n < s_p.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), arXiv:1503.03832, eq. 4, for cosine similarities. An anchor that has
    none adds nothing to the loss. With several positives, s_p is their mean.

    Args:
        margin: in units of the cosine, > 0.

    Raises:
        ValueError: margin is not above 0.

    >>> block = LogitBlock(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2.5]), torch.ones(1, 3).bool(), 4.0)
    >>> SemiHard(margin=0.2).weights(block)  # cosines: positive 0.625, negatives 0.75, 0.25 and 0.5
    tensor([[-inf, -inf, 0.]])
    """

    tilewise = True

    def __init__(self, margin: float = 0.2):
        super().__init__()
        if not margin > 0:
            raise ValueError(f"negatives.margin must be > 0, got {margin}")
        self.margin = margin

    def weights(self, block: LogitBlock) -> Tensor:
        logits, positive = block.logits.detach(), block.positive.detach()[:, None]
        keep = (logits < positive) & (logits > positive - self.margin * block.scale)
        return torch.zeros_like(logits).masked_fill(~keep, -torch.inf)


class FalseNegatives(Strategy):
    """Drop likely false negatives: candidates that are too similar, or of the anchor's class.

    Huynh et al. 2022, arXiv:2011.11765, sec. 3.3, elimination.

    Args:
        threshold: candidates with a cosine above it are dropped; 1 or more drops none.
        k: at most this many, the most similar; None: all above the threshold.
        labels: drop by label instead, an upper bound of what detection can gain: training then sees labels.

    Raises:
        ValueError: k is below 1; or labels are missing where these decide.

    >>> block = LogitBlock(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2.5]), torch.ones(1, 3).bool(), 4.0)
    >>> FalseNegatives(threshold=0.7).weights(block)
    tensor([[-inf, 0., 0.]])
    """

    tilewise = True

    def __init__(self, threshold: float = 0.7, k: int | None = 10, labels: bool = False):
        super().__init__()
        if k is not None and k < 1:
            raise ValueError(f"negatives.k must be null or at least 1, got {k}")
        self.threshold, self.k, self.supervised = threshold, k, labels

    def needs_whole(self) -> Strategy | None:
        return super().needs_whole() if self.supervised or self.k is None else self  # k are of all candidates

    def weights(self, block: LogitBlock) -> Tensor:
        logits = negatives_only(block)
        if self.supervised:
            if block.row_labels is None or block.col_labels is None:
                raise ValueError("negatives.labels=true needs data with labels")
            drop = same_class(block.row_labels, block.col_labels)
        else:
            drop = logits > self.threshold * block.scale
            if self.k is not None:
                nearest = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
                drop &= torch.zeros_like(drop).scatter(1, nearest, True)
        return torch.zeros_like(logits).masked_fill(drop, -torch.inf)
