"""The sum over negatives, whose gradient is written out, has the bits of torch's own operations."""

import pytest
import torch

from repel.negatives.strategy import MaskedLogSumExp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_those_of_plain_operations(dtype):
    draws = torch.Generator().manual_seed(0)
    x, kept = 5 * torch.randn(40, 70, generator=draws, dtype=dtype), torch.rand(40, 70, generator=draws) < 0.8
    kept[3] = False  # an anchor without negatives
    weights = torch.randn(40, generator=draws, dtype=dtype)
    plain, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = plain.masked_fill(~kept, -torch.inf).logsumexp(1)
    value = MaskedLogSumExp.apply(ours, kept)
    assert torch.equal(value, expected)
    for result in (expected, value):
        (result.masked_fill(result == -torch.inf, 0) * weights).sum().backward()
    assert torch.equal(ours.grad, plain.grad)
    assert ours.grad[kept].all()
    assert not ours.grad[~kept].any()
