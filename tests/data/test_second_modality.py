"""A modality without pixels goes through datamodule, module, loss, ranks and checkpoints: see token_modality.py."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, config
from token_modality import (
    LENGTH,
    USERS,
    BagOfTokens,
    InfoNCEWithNegatives,
    Tokens,
    fit_tokens,
    fit_tokens_on_ranks,
    token_data,
    token_module,
    tokens,
)
from torch import nn

from repel.base.sized import SizedByData
from repel.data.pair import Pair
from repel.data.samples import DataInfo, NeedsData, give_info
from repel.engine import checkpoint_io

QUICK = [*TINY, "callbacks.knn=null", "callbacks.progress=null", "logger.tensorboard=null", "trainer.accelerator=cpu",
         "trainer.precision=64-true", "data.batch_size=8"]  # fmt: skip


def batch() -> Pair:
    """The first training batch, as a trainer in float64 would get it."""
    data = token_data()
    data.trainer = type("Trainer", (), {
        "global_rank": 0, "world_size": 1, "limit_train_batches": 1.0, "training": True,
        "strategy": type("Strategy", (), {"root_device": torch.device("cpu")}),
        "lightning_module": nn.Linear(1, 1).double(),
        "fit_loop": type("F", (), {"epoch_loop": type("E", (), {
            "batch_progress": type("P", (), {"total": type("T", (), {"processed": 0})})})}),
    })()  # fmt: skip
    data.setup()
    raw = next(iter(data.train_dataloader()))
    return data.on_after_batch_transfer(data.transfer_batch_to_device(raw, torch.device("cpu"), 0), 0)


def module(**parts):
    made = token_module(**parts)
    made.give_data_info(tokens().info())
    return made


def test_integers_stay_integers_and_every_view_shows_its_entity():
    pair = batch()
    assert pair.batch_size == 8
    assert pair.views.shape == (2, 8, LENGTH)
    assert pair.negatives.shape == (2, 8, LENGTH)
    assert pair.views.dtype == pair.negatives.dtype == torch.int64
    assert pair.ids.shape == pair.negative_ids.shape == (2, 8)
    assert (pair.ids[0] < USERS).all()
    assert torch.equal(pair.ids[1], USERS + pair.views[1, :, 0])
    assert torch.equal(pair.negative_ids, USERS + pair.negatives[..., 0])
    assert pair.labels is None


def test_negatives_are_candidates_only():
    """They reach the loss beside the views, in the views' space and with a gradient; no anchor is made of them."""
    seen = {}

    class Watch(InfoNCEWithNegatives):
        def forward(self, z, labels, ids, local, target=None, **further):
            seen.update(further, z=z)
            return super().forward(z, labels, ids, local, target, **further)

    pair, net = batch(), module(loss=Watch())
    loss, output = net.shared_step(pair)
    assert output.z.shape == output.keys.shape == (2, 8, 4)
    assert output.h.shape == (16, 5)
    assert seen["negatives"].shape == (2, 8, 4)
    assert torch.equal(seen["negative_ids"], pair.negative_ids)
    expected = net.head(net.encoder(pair.negatives.flatten(0, 1)))
    torch.testing.assert_close(seen["negatives"].flatten(0, 1), expected)
    gradient = torch.autograd.grad(loss, seen["negatives"], retain_graph=True)[0]
    assert gradient.abs().sum() > 0


def test_negatives_are_in_the_space_of_what_anchors_are_compared_with():
    seen, pair = {}, batch()

    class Watch(InfoNCEWithNegatives):
        def forward(self, z, labels, ids, local, target=None, **further):
            seen.update(further, target=target)
            return super().forward(z, labels, ids, local, target, **further)

    net = module(loss=Watch(), target=True)
    net.target.head.weight.data.mul_(2)
    net.shared_step(pair)
    torch.testing.assert_close(seen["negatives"].flatten(0, 1), net.target(pair.negatives.flatten(0, 1)))
    assert not seen["negatives"].requires_grad
    net = module(loss=Watch(), predictor=nn.Linear(4, 4))
    net.shared_step(pair)
    expected = net.head(net.encoder(pair.negatives.flatten(0, 1)))  # not predicted, as keys are not
    torch.testing.assert_close(seen["negatives"].flatten(0, 1), expected)
    assert not seen["negatives"].requires_grad


class TakesNone(InfoNCEWithNegatives):
    takes_negatives = False


def test_a_loss_that_takes_no_negatives_says_so():
    with pytest.raises(ValueError, match="TakesNone takes no explicit negatives"):
        module(loss=TakesNone())  # before training
    net = token_module(loss=TakesNone())
    net.give_data_info(replace(tokens().info(), negatives=0))
    with pytest.raises(ValueError, match="TakesNone takes no explicit negatives"):
        net.shared_step(batch())


def test_sides_that_differ_in_kind():
    """A tuple with one batch a side, of other shapes and types, for an encoder with a tower a side."""

    class Towers(nn.Module):
        out_features = 5

        def __init__(self):
            super().__init__()
            self.user, self.item = nn.Linear(3, 5), BagOfTokens()

        def forward(self, sides):
            return torch.cat([self.user(sides[0]), self.item(sides[1])])

    net = token_module()
    net.encoder = Towers()
    net.give_data_info(tokens().info())
    users, texts = torch.randn(8, 3), tokens().x[:8]
    negatives = (torch.zeros(0, 8, 3), tokens().hard[:8].transpose(0, 1))
    ids = torch.stack([torch.arange(8), 100 + torch.arange(8)])
    loss, output = net.shared_step(Pair((users, texts), ids, None, None, negatives, 200 + torch.arange(16).view(2, 8)))
    assert loss.isfinite()
    assert output.z.shape == (2, 8, 4)
    torch.testing.assert_close(output.z[0], net.head(net.encoder.user(users)))
    torch.testing.assert_close(output.z[1], net.head(net.encoder.item(texts)))


# ---------------------------------------------------------------------------------------- what parts know of the data


def test_every_part_that_asks_is_told_once_and_no_other():
    net = token_module(target=True)
    assert isinstance(net.encoder, NeedsData)
    assert not isinstance(net.head, NeedsData)
    net.give_data_info(tokens().info())
    assert net.encoder.calls == net.target.encoder.calls == 1
    assert int(net.encoder.train_size) == len(tokens())
    assert torch.equal(net.target.encoder.counts, net.encoder.counts)


def test_a_target_begins_as_the_network_whose_parameters_the_data_sized():
    class Table(SizedByData):
        out_features = 5

        def __init__(self):
            super().__init__()
            self.rows = nn.Parameter(torch.zeros(0, 5))

        def on_data(self, info):
            self.rows = nn.Parameter(torch.randn(info.train_size, 5))

        def forward(self, nodes):
            return self.rows[nodes]

    from repel.model.ema import EMA

    net = token_module()
    net.encoder = Table()
    net.target = EMA(net.encoder, net.head, 0.5)
    net.give_data_info(DataInfo(7))
    assert torch.equal(net.encoder.rows, net.target.encoder.rows)
    assert not any(p.requires_grad for p in net.target.parameters())
    other = Table()
    other.load_state_dict(net.encoder.state_dict())  # as evaluation does, without the data
    assert torch.equal(other.rows, net.encoder.rows)
    assert other.rows.requires_grad
    with pytest.raises(RuntimeError, match="rows"):
        other.load_state_dict({})


def test_info_reaches_parts_at_any_depth():
    chain = nn.ModuleList([nn.Linear(1, 1), nn.Sequential(BagOfTokens())])
    give_info(chain, tokens().info())
    assert chain[1][0].calls == 1


def test_trained_resumed_and_evaluated(tmp_path, monkeypatch):
    """What the encoder knows of the data is in its checkpoint: a resumed run and an evaluation go on with it."""
    from repel.engine import pretrained

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder, epochs in ((whole, [2]), (halves, [1, 2])):
        folder.mkdir()
        for number, last in enumerate(epochs):
            cfg = config(
                *QUICK,
                "trainer.precision=32-true",
                "target=ema",
                f"trainer.max_epochs={last}",
                "trainer.limit_train_batches=3",
            )
            fit_tokens(cfg, folder, resume=number > 0)
    one, two = (checkpoint_io.load(folder / "checkpoints/last.ckpt") for folder in (whole, halves))
    assert one["global_step"] == two["global_step"] == 6
    for name, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][name]), name
    assert one["state_dict"]["encoder.counts"].shape == (50,)
    monkeypatch.setattr(pretrained, "build_module", lambda cfg: token_module())
    trained = pretrained.build_pretrained(one, whole / "checkpoints/last.ckpt")
    assert trained.encoder.calls == 0
    assert torch.equal(trained.encoder.counts, one["state_dict"]["encoder.counts"])
    assert trained.encoder(tokens().x[:3]).isfinite().all()


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path):
    """With dropout, a target and explicit negatives."""
    states = []
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        few = ["trainer.max_epochs=2", "trainer.limit_train_batches=3"]
        cfg = config(*QUICK, *few, "target=ema", f"trainer.devices={world}")
        if world == 1:
            fit_tokens(cfg, folder)
        else:
            fit_tokens_on_ranks(cfg, folder, world)
        states.append(checkpoint_io.load(folder / "checkpoints/last.ckpt")["state_dict"])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-10)
    assert states[0]["encoder.table.weight"].dtype == torch.float64


def test_parts_of_a_set_keep_every_row_together():
    samples = tokens(10)
    part = samples[torch.tensor([7, 2])]
    assert isinstance(part, Tokens)
    for name in ("x", "users", "hard", "hard_ids"):
        assert torch.equal(getattr(part, name), getattr(samples, name)[[7, 2]])
    assert len(samples[torch.arange(10) < 4]) == 4
    assert samples.with_labels(torch.arange(10) - 1).labelled.x.shape == (9, LENGTH)
    moved = samples.to(torch.device("meta"))
    assert moved.hard.is_meta
    assert moved.nbytes == samples.x.nbytes + samples.users.nbytes + samples.hard.nbytes + samples.hard_ids.nbytes
