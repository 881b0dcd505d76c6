"""negatives=own_negatives negatives.only=true has a form of its own, which takes m x M logits in place of m x n."""

import pytest
import torch

from repel.losses import DHEL, MACL, Decoupled, InfoNCE, NTXent
from repel.negatives import Chain, OwnNegatives


@pytest.mark.parametrize("ids", [None, torch.tensor([[0, 1, 0, 2, 3], [7, 8, 9, 8, 7]])])
@pytest.mark.parametrize("options", [{}, {"symmetric": False}, {"learn_temperature": True}])
@pytest.mark.parametrize("kind", [InfoNCE, NTXent, Decoupled, DHEL, MACL])
def test_the_form_equals_that_of_all_candidates(kind, options, ids):
    draws = torch.Generator().manual_seed(1)
    values = []
    z, drawn = (torch.randn(2, 5, 4, dtype=torch.float64, generator=draws) for _ in range(2))
    shown = None if ids is None else torch.tensor([[7, 9, 8, 7, 8], [9, 9, 7, 7, 7]])  # some are the anchor's positive
    for negatives in (OwnNegatives(2.0, only=True), Chain([OwnNegatives(2.0, only=True)])):
        loss = kind(temperature=0.3, negatives=negatives, **options).double()
        leaves = [z.clone().requires_grad_(), drawn.clone().requires_grad_()]
        value = loss(leaves[0], ids=ids, local=slice(1, 4), negatives=leaves[1], negative_ids=shown)
        value.backward()
        learned = [p.grad for p in loss.parameters()]
        values.append([value.detach(), *(leaf.grad for leaf in leaves), *learned])
    for own, all_of_them in zip(*values, strict=True):
        torch.testing.assert_close(own, all_of_them, rtol=1e-12, atol=1e-12)


def test_no_logit_of_another_sample_is_computed(monkeypatch):
    def refuse(*_):
        raise AssertionError("all candidates")

    monkeypatch.setattr(InfoNCE, "logit_block", refuse)
    z = torch.randn(2, 5, 4)
    InfoNCE(negatives=OwnNegatives(only=True))(z, negatives=z[:1])
    with pytest.raises(AssertionError, match="all candidates"):
        InfoNCE(negatives=OwnNegatives())(z, negatives=z[:1])
