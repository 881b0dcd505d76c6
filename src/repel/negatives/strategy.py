"""What a strategy sees, and what it may do."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LogitBlock(NamedTuple):
    """A block of m anchors against n candidates.

    Args:
        logits: (m, n) s / t, of every candidate, also of those that are no negatives.
        positive: (m,) the anchor's positive logit; with several positives, the mean of theirs.
        negative: (m, n) bool, which candidates are negatives of the anchor.
        scale: 1 / t, a float or a scalar tensor.
        anchors: (m, D) unit vectors.
        candidates: (n, D) unit vectors.
        row_ids: (m,) the entity that each anchor shows, or None.
        col_ids: (n,) the entity that each candidate shows, -1 where unknown, or None.
        row_labels: (m,) classes, -1 where unknown, or None.
        col_labels: (n,) classes, -1 where unknown, or None.
        weights: log-weights w, broadcastable to `logits`, 0 where a candidate is no negative; None: all 0.
        extra: (m, s) logits that stand for the strategy's extra() where they are known already, or None.
        positives: (m, P) the logits of all P positives; None where `positive` is the only one.
        positive_ids: (m, P) the entities that the positives show, or None.
        row_samples: (m,) the sample that each anchor is of, 0 .. N - 1 over all ranks, or None.
        row_views: (m,) which view of it each anchor is; crops come after the V views; or None.
        explicit: (M, N); the last M * N candidates are the explicit negatives of the batch's N samples, N after N.
        catalog: E where the candidates are all items of a catalog, else 0.
    """

    logits: Tensor
    positive: Tensor
    negative: Tensor
    scale: float | Tensor
    anchors: Tensor | None = None
    candidates: Tensor | None = None
    row_ids: Tensor | None = None
    col_ids: Tensor | None = None
    row_labels: Tensor | None = None
    col_labels: Tensor | None = None
    weights: Tensor | None = None
    extra: Tensor | None = None
    positives: Tensor | None = None
    positive_ids: Tensor | None = None
    row_samples: Tensor | None = None
    explicit: tuple[int, int] = (0, 0)
    row_views: Tensor | None = None
    catalog: int = 0


class ExplicitNegatives(Protocol):
    """What strategies ask of DataInfo (repel/data/samples.py): how many explicit negatives a sample brings."""

    @property
    def negatives(self) -> int: ...


class Strategy(nn.Module):
    """How an anchor's negatives are weighed: here all the same. A subclass overrides what it needs.

    The hooks are `keep`, `weights`, `extra` and `correct`; losses call `weigh` and `log_z`, which call them where there
    are candidates: a queue that is empty yet has none.

    >>> class NotTheHardest(Strategy):
    ...     def weights(self, block):
    ...         hardest = block.logits.masked_fill(~block.negative, -torch.inf).amax(1, keepdim=True)
    ...         return torch.zeros_like(block.logits).masked_fill(block.logits == hardest, -torch.inf)
    >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
    >>> block = LogitBlock(logits, torch.tensor([2.5]), torch.tensor([[True, True, True]]), scale=5.0)
    >>> NotTheHardest().weigh(block).negative.tolist()
    [[False, True, True]]
    """

    supervised = False  # whether labels decide
    own_only = False  # whether all candidates but the explicit negatives of the anchor's own sample are dropped
    corrects = False  # whether the class has a correct() of its own; a loss without a sum to correct refuses these
    synthesizes = False  # whether the class has an extra() of its own
    drops, weighs = False, False  # whether it has a keep(), and weights(), of its own
    adjusts = False  # whether its weights correct the logits: later members of a chain then see l + w
    tilewise = False  # whether candidates may be weighed a part at a time, up to a number for each anchor (gather=ring)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if {"keep", "weights", "extra", "correct", "narrow"} & vars(cls).keys() and "tilewise" not in vars(cls):
            cls.tilewise = False  # a subclass says so itself: what it inherits is of other weights
        cls.corrects, cls.synthesizes = cls.correct is not Strategy.correct, cls.extra is not Strategy.extra
        cls.drops, cls.weighs = cls.keep is not Strategy.keep, cls.weights is not Strategy.weights

    # ------------------------------------------------------------------------------------ what a strategy overrides

    def keep(self, block: LogitBlock) -> Tensor:
        """Which of block.negative are kept, (m, n) bool; a weight of -inf does the same by a matrix of numbers."""
        return block.negative

    def weights(self, block: LogitBlock) -> Tensor | None:
        """Log-weights w, broadcastable to (m, n): 0 keeps a negative, -inf drops it, between is soft. None: all 0.

        `block.negative` is what `keep` left.
        """
        return None

    def extra(self, block: LogitBlock) -> Tensor | None:
        """Logits (m, s) of further, synthetic negatives, each of weight 1; -inf where there is none."""
        return None

    def extra_elements(self, dim: int) -> int:
        """Numbers that extra() holds for an anchor at its peak, backward included; dim is that of the embeddings.

        row_chunk=auto counts them.
        """
        return 0

    def correct(self, log_z: Tensor, block: LogitBlock) -> Tensor:
        """log Z (m,), corrected per anchor. `block` has the synthetic negatives too."""
        return log_z

    def needs_whole(self) -> "Strategy | None":
        """The strategy, or the member of a chain, that must see all candidates of an anchor at once; None: none."""
        return None if self.tilewise else self

    def narrow_tile(self, block: LogitBlock) -> tuple[LogitBlock, Tensor | None, list[Tensor]]:
        """narrow() of a part of the candidates, where none needs the whole.

        Returns:
            The block and the log-weights as of narrow(), the latter up to a number c for each anchor; and terms (m,) of
            which, for all parts, row_weight() makes c.
        """
        return *self.narrow(block), []

    def row_weight(self, terms: Iterator[Tensor]) -> Tensor | None:
        """c (m,), from the terms that narrow_tile() gave, each (T, m) of all T parts; None: 0."""
        return None

    def correct_total(self, log_z: Tensor, number: Tensor, block: LogitBlock) -> Tensor:
        """correct() of anchors with so many negatives (m,), whose block is without candidates."""
        return log_z

    def advance(self) -> None:
        """Called once after every training batch: the place to count steps in a buffer."""

    def statistics(self) -> dict[str, Tensor]:
        """What to log of the training batches since the last call: names -> scalars."""
        return {}

    # ------------------------------------------------------------------------------------------ what losses call

    def weigh(self, block: LogitBlock) -> LogitBlock:
        """The block after the strategy: fewer negatives, their log-weights, synthetic ones as further columns."""
        if not (block.logits.shape[1] and (self.drops or self.weighs or self.synthesizes)):
            return block
        narrowed, weights = self.narrow(block)
        extra = self.extra(block) if self.synthesizes and block.extra is None else block.extra
        block = block._replace(negative=narrowed.negative)
        if weights is not None:  # finite everywhere: -inf is in the mask, so that no NaN gets into a gradient
            weights = weights.masked_fill(~block.negative, 0)
        if extra is None:
            return block._replace(weights=weights)
        possible = torch.isfinite(extra)
        if weights is not None:
            weights = torch.cat([weights.expand_as(block.logits), torch.zeros_like(extra)], dim=1)
        logits = torch.cat([block.logits, extra.masked_fill(~possible, 0)], dim=1)
        return block._replace(logits=logits, negative=torch.cat([block.negative, possible], dim=1), weights=weights)

    def narrow(self, block: LogitBlock) -> tuple[LogitBlock, Tensor | None]:
        """The block in which only what is kept is a negative, and the log-weights; None: all 0."""
        if self.drops:
            block = block._replace(negative=self.keep(block))
        weights = self.weights(block) if self.weighs else None
        if weights is not None:
            block = block._replace(negative=block.negative & (weights > -float("inf")))
        return block, weights

    def log_z(self, block: LogitBlock) -> Tensor:
        """log Z (m,) of a block that was weighed; -inf where no negative is left."""
        weighted = block.logits if block.weights is None else block.logits + block.weights
        log_z = MaskedLogSumExp.apply(weighted, block.negative)
        return self.correct(log_z, block) if self.corrects and block.logits.shape[1] else log_z


class MaskedLogSumExp(torch.autograd.Function):
    """log of the sum of e^x over what is kept, by rows: x (m, n) and kept (m, n) bool -> (m,).

    -inf, and no gradient, where a row keeps nothing. The same bits as x.masked_fill(~kept, -inf).logsumexp(1), value
    and gradient; but backward makes one matrix where autograd's makes four.

    >>> MaskedLogSumExp.apply(torch.zeros(1, 3), torch.tensor([[True, True, False]])).exp()
    tensor([2.])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor) -> Tensor:
        masked = x.masked_fill(~kept, -torch.inf)
        result = masked.logsumexp(1)
        ctx.save_for_backward(masked, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        masked, result = ctx.saved_tensors
        finite = result.masked_fill(result == -torch.inf, 0)  # where a row keeps nothing: e^-inf, not NaN
        return (masked - finite[:, None]).exp_().mul_(gradient[:, None]), None


def negatives_only(block: LogitBlock) -> Tensor:
    """The logits without gradient, -inf where a candidate is no negative: what a choice is made from."""
    return block.logits.detach().masked_fill(~block.negative, -torch.inf)


def check_explicit(info: ExplicitNegatives, typed: str) -> None:
    """Raises ValueError where a strategy that was chosen as `typed` weighs explicit negatives, and there are none."""
    if not info.negatives:
        raise ValueError(
            f"{typed} weighs explicit negatives, and this data brings none; choose others, or other data, or "
            "for users and items views.negatives=1"
        )


def own_explicit(block: LogitBlock) -> Tensor:
    """(m, n) bool, which candidates are explicit negatives of the anchor's own sample.

    >>> block = LogitBlock(torch.zeros(1, 5), torch.zeros(1), torch.ones(1, 5).bool(), 1.0)
    >>> own_explicit(block._replace(row_samples=torch.tensor([1]), explicit=(2, 2))).tolist()
    [[False, False, True, False, True]]
    """
    each, samples = block.explicit
    own = torch.zeros_like(block.negative)
    if each:
        assert block.row_samples is not None, "losses pass them"
        owners = torch.arange(samples, device=own.device).repeat(each)
        own[:, own.shape[1] - len(owners) :] = block.row_samples[:, None] == owners
    return own


def same_class(rows: Tensor, cols: Tensor) -> Tensor:
    """(m, n) bool of labels (m,) and (n,): which are of one class, as far as both are known (0 or more).

    >>> same_class(torch.tensor([0, -1]), torch.tensor([0, 1, -1])).tolist()
    [[True, False, False], [False, False, False]]
    """
    return (rows[:, None] == cols) & (rows[:, None] >= 0)
