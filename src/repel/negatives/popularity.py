"""Popular entities are drawn more often into a batch, and count less there."""

import math
from typing import Any, Literal

from torch import Tensor

from repel.negatives.strategy import LogitBlock, Strategy
from repel.negatives.training_pairs import Shares, training_pairs

__all__ = ["Popularity"]


class Popularity(Strategy):
    """logQ correction: candidates count less the more popular they are, as they are drawn more often.

        w_ij = power ( log q_p - log q_j ),   q: the entity's share of the training pairs; several positives p: mean

    Yi et al. 2019, doi 10.1145/3298689.3346996, sec. 3: every logit of the softmax, the positive's too, is reduced by
    log q. So l_ij estimates log p(j | i), where in-batch negatives alone would make it log p(j | i) - log p(j). Items
    have their share of the items, users theirs of the users; one that is in no training pair has that of one pair.
    Explicit negatives are drawn uniformly: they have 1 / the number of entities of their side. Synthetic negatives
    (mixed) are nobody, and not corrected.

    positive=present: the positive is not drawn but always there, and n drawn negatives stand for all others,

        w_ij = power ( log(1 - q_p) - log q_j - log n_i ),   n_i: negatives of the anchor

    Khrylchenko et al. 2025, arXiv:2507.09331, in the form of the authors' code (NonameUntitled/logq,
    train_in_batch_logq_new.py): with InfoNCE the gradient is that of their loss, sg(1 - P_i) (log sum_j
    e^{l_ij} (1 - q_p) / q_j - l_ip), P_i = e^{l_ip} / (e^{l_ip} + Z_i). Its value is another one.

    Args:
        power: 1 corrects fully, 0 not at all; more demotes popular entities.
        positive: sampled or present.

    Raises:
        ValueError: an argument is out of its range; the data has no pairs of users and items; there are no pairs, or no
            ids, or candidates are the catalog (when called).

    >>> import torch
    >>> from types import SimpleNamespace
    >>> popularity = Popularity()
    >>> popularity.on_data(SimpleNamespace(users=2, items=3, pairs=torch.tensor([[0, 0], [0, 1], [1, 1]])))
    >>> block = LogitBlock(torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2).bool(), 1.0)
    >>> ids = {"row_ids": torch.tensor([0]), "positive_ids": torch.tensor([[2]]), "col_ids": torch.tensor([3, 4])}
    >>> popularity.weights(block._replace(**ids))  # item 1 is in two pairs, items 0 and 2 count as in one
    tensor([[-0.6931,  0.0000]])
    """

    adjusts, tilewise = True, True

    def __init__(self, power: float = 1.0, positive: Literal["sampled", "present"] = "sampled"):
        super().__init__()
        if not 0 <= power < math.inf:
            raise ValueError(f"negatives.power must be >= 0 and finite, got {power}")
        if positive not in ("sampled", "present"):
            raise ValueError(f"negatives.positive must be sampled or present, got {positive!r}")
        self.power, self.positive = power, positive
        self.shares: Shares | None = None

    def on_data(self, info: Any) -> None:
        self.shares = Shares.of(training_pairs(info, "negatives=popularity"))

    def needs_whole(self) -> Strategy | None:
        # the other form counts an anchor's negatives before later members of a chain see its logits
        return super().needs_whole() if self.positive == "sampled" else self

    def weights(self, block: LogitBlock) -> Tensor:
        if self.shares is None:
            raise ValueError("negatives=popularity has no training pairs: call on_data with them, as training does")
        if block.positive_ids is None or block.col_ids is None:
            raise ValueError("negatives=popularity looks entities up by ids: call the loss with ids")
        if block.catalog:
            raise ValueError(
                "negatives=popularity corrects what a batch draws, and loss.candidates=catalog draws nothing: every "
                "item is there once; leave one of the two out"
            )
        shares = self.shares = self.shares.to(block.logits.device)  # once
        log_q = shares.log_q(block.positive_ids, block.logits.dtype)
        if self.positive == "sampled":
            offset = log_q.mean(1)
        else:
            others = (-log_q.exp().clamp(max=1 - 1e-6)).log1p().mean(1)  # of an entity in all pairs, rounded, q >= 1
            offset = others - block.negative.sum(1).clamp(min=1).to(others.dtype).log()
        return self.power * offset[:, None] - self.power * shares.log_drawn(block)
