"""The momentum encoder."""

import copy

import pytest
import torch
from conftest import same
from torch import nn

from repel.model.ema import EMA


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.register_buffer("table", torch.zeros(3))

    def forward(self, x):
        return self.norm(self.linear(x))


def trained(steps: int) -> tuple[Net, EMA, list[torch.Tensor]]:
    """A network that moves fast, its slow target, and the batches."""
    net, head = Net(), nn.Identity()
    target, batches = EMA(net, head, momentum=0.99), []
    for _ in range(steps):
        batches.append(torch.randn(32, 4) * 3 + 1)
        net(batches[-1]), target(batches[-1])
        with torch.no_grad():
            net.linear.weight.mul_(1.05)
        target.follow(net, head)
    return net, target, batches


def test_statistics_are_of_the_targets_own_activations():
    """In evaluation mode the target is the function that made its embeddings in training."""
    net, target, batches = trained(60)
    x = torch.cat(batches[-20:])
    in_training = copy.deepcopy(target).train()(x)
    in_evaluation = target.eval()(x)
    cosine = torch.cosine_similarity(in_training, in_evaluation).mean()
    assert cosine > 0.98
    with_copied = copy.deepcopy(target)
    with_copied.encoder.norm.load_state_dict(
        net.norm.state_dict() | {k: v for k, v in target.encoder.norm.state_dict().items() if k in ("weight", "bias")}
    )
    assert torch.cosine_similarity(in_training, with_copied(x)).mean() < cosine - 0.05


def test_other_buffers_follow_the_network():
    net, target, _ = trained(1)
    net.table.fill_(5.0)
    target.follow(net, nn.Identity())
    assert torch.equal(target.encoder.table, net.table)


def test_a_momentum_of_one_stands_still():
    net = Net()
    target = EMA(net, nn.Identity(), momentum=1.0)
    before = target.encoder.linear.weight.clone()
    nn.init.ones_(net.linear.weight)
    target.follow(net, nn.Identity())
    assert torch.equal(target.encoder.linear.weight, before)


def half_precision(momentum: float) -> tuple[Net, EMA]:
    """As under trainer.precision=bf16-true, after which Lightning moves the network to its device."""
    net = Net()
    target = EMA(net, nn.Identity(), momentum)
    return net.to(torch.bfloat16), target.to(torch.bfloat16).to("cpu")


def test_the_average_is_float32_where_the_network_is_bfloat16():
    """In bfloat16, 95 % of the distance were left here."""
    net, target = half_precision(momentum=0.999)
    begin = net.linear.weight.double()
    with torch.no_grad():
        net.linear.weight.add_(0.05)
    for _ in range(2000):
        target.follow(net, nn.Identity())
    left = (target.encoder.linear.weight - net.linear.weight).norm() / (begin - net.linear.weight).norm()
    assert float(left.detach()) == pytest.approx(0.999**2000, rel=0.02)
    z = target(torch.randn(8, 4, dtype=torch.bfloat16))
    assert z.dtype == torch.bfloat16
    assert target.to(torch.float64).encoder.linear.weight.dtype == torch.float64


def test_a_half_precision_run_resumes_with_the_same_average():
    target = half_precision(momentum=0.999)[1]
    target.follow(Net().to(torch.bfloat16), nn.Identity())
    again = EMA(Net(), nn.Identity(), momentum=0.999)
    again.load_state_dict(target.state_dict())
    again = again.to(torch.bfloat16)
    assert same(dict(again.state_dict()), dict(target.state_dict()))
    state = target.state_dict().items()
    rounded = {key: value.bfloat16() if value.is_floating_point() else value for key, value in state}
    again.load_state_dict(rounded)  # of a checkpoint whose average was in bfloat16
    assert torch.equal(again.encoder.linear.weight, rounded["encoder.linear.weight"].float())
