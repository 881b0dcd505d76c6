"""Every loss of conf/loss with every strategy and every set of candidates starts with an empty queue."""

from typing import get_args

import pytest
import torch
from hydra.errors import InstantiationException
from loss_cases import IDS, LABELS, ROWWISE, batch, each_once, make, value_and_gradient

from repel.losses import SCE, LogRatioLoss, ReSSL, negative_weights
from repel.losses.rowwise import CandidateSet
from repel.negatives import Strategy

ALONE = {"supcon": {"all"}, "nnclr": {"all", "cross", "same"}}  # sets of candidates that a loss takes, if not all


@pytest.mark.parametrize("pair", each_once(ROWWISE))
def test_starts_with_an_empty_queue(pair):
    """The first call, and with `queue`, where it has no candidates, what the monitor sees of it and the next call."""
    z, target = batch(), batch(seed=1).detach()
    for candidates in (c for c in get_args(CandidateSet) if c != "catalog"):  # which goes without a queue
        if candidates not in ALONE.get(pair[0], {candidates}):
            with pytest.raises(InstantiationException, match="candidates"):
                make(*pair, queue=8, candidates=candidates)
            continue
        loss = make(*pair, queue=8, candidates=candidates)
        for step in range(2):
            value, gradient = value_and_gradient(loss, z, labels=LABELS, ids=IDS, target=target)
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()
            if candidates != "queue":
                break
            if step == 0 and isinstance(loss, (LogRatioLoss, ReSSL, SCE)):
                assert value == 0  # no negatives yet
            weight = negative_weights(loss, z, target, LABELS, IDS, anchors=2).weight
            assert weight is None or torch.isfinite(weight).all()
            loss.update(batch(seed=2), LABELS, IDS + 100)


def test_a_strategy_of_ones_own_is_not_asked_about_no_candidates():
    class NotTheHardest(Strategy):
        def weights(self, block):
            hardest = block.logits.masked_fill(~block.negative, -torch.inf).amax(1, keepdim=True)
            return torch.zeros_like(block.logits).masked_fill(block.logits == hardest, -torch.inf)

        def correct(self, log_z, block):
            return block.logits.amax(1)

    for chunk in (None, 5):
        loss = make("infonce", NotTheHardest(), queue=8, candidates="queue", row_chunk=chunk)
        assert value_and_gradient(loss, batch(), ids=IDS)[0] == 0
