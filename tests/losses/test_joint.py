"""A weighted sum of losses, each on views of its own."""

import pytest
import torch
from conftest import TINY, config
from loss_cases import IDS, LABELS, batch, make, value_and_gradient
from runs_here import status

from repel.engine.build import build_module
from repel.losses import BYOL, InfoNCE, Joint, NTXent, Queue, SupCon, VICReg


def several(**changes) -> Joint:
    """Three losses, of all four views, of two and of two others in another order."""
    members = {
        "classes": {"loss": SupCon(), "weight": 0.5},
        "pair": {"loss": InfoNCE(temperature=0.5, learn_temperature=True), "views": [0, 1], "weight": 2.0},
        "further": {"loss": InfoNCE(symmetric=False, queue=Queue(8, 5)), "views": [3, 2]},
    }
    return Joint(members | changes).double()


def test_is_the_sum_of_its_members_on_their_views():
    """With ids of each view, a target and explicit negatives, which go to the members with view 0."""
    z, target, negatives = batch(4), batch(4, seed=1).detach(), batch(2, seed=2).detach()
    ids = torch.arange(10, 34).view(4, 6)
    ids[1, 2], ids[3, 0] = ids[1, 4], ids[3, 5]
    negative_ids = torch.stack([ids[0].roll(1), torch.arange(50, 56)])
    explicit = {"negatives": negatives, "negative_ids": negative_ids}
    for compared in (None, target):
        total = several()
        ours = value_and_gradient(total, z, labels=LABELS, ids=ids, target=compared, **explicit)
        loss, views = {name: member.loss for name, member in total.parts.items()}, z.detach().requires_grad_()
        pair, further = (None, None) if compared is None else (compared[:2], compared[[3, 2]])
        expected = 0.5 * loss["classes"](views, LABELS, ids, target=compared, **explicit)
        expected = expected + 2 * loss["pair"](views[:2], LABELS, ids[:2], target=pair, **explicit)
        expected = expected + loss["further"](views[[3, 2]], LABELS, ids[[3, 2]], target=further)
        expected.backward()
        torch.testing.assert_close(ours[0], expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(ours[1], views.grad, rtol=1e-12, atol=1e-15)


def test_crops_go_to_members_with_view_0_that_take_them():
    z, crops = batch(2), batch(3, seed=1).detach()
    contrast, spread = NTXent(), VICReg()
    total = Joint({"contrast": {"loss": contrast}, "spread": {"loss": spread, "weight": 0.1}})
    assert total.takes_crops
    torch.testing.assert_close(total(z, crops=crops), contrast(z, crops=crops) + 0.1 * spread(z))
    apart = Joint({"contrast": {"loss": contrast, "views": [1, 2]}, "spread": {"loss": spread, "views": [0, 1]}})
    assert not apart.takes_crops
    with pytest.raises(ValueError, match="no member of loss=joint takes crops"):
        apart(batch(3), crops=crops)
    with pytest.raises(ValueError, match="no member of loss=joint takes explicit negatives"):
        apart(batch(3), negatives=crops)


def test_what_it_asks_for_follows_from_its_members():
    contrast, classes, byol = ({"loss": loss} for loss in (NTXent(), SupCon(), BYOL()))
    asks = lambda **members: (lambda made: (made.supervised, made.needs_predictor))(Joint(members))  # noqa: E731
    assert asks(a=contrast) == (False, False)
    assert asks(a=contrast, b=classes) == (True, False)
    assert asks(a=contrast, b=byol) == (False, True)
    old = {"loss": make("nnclr", queue=8)}
    assert Joint({"a": old, "b": contrast}).tolerates_old_keys
    assert not Joint({"a": old, "b": {"loss": NTXent(queue=Queue(8, 5))}}).tolerates_old_keys


def test_state_and_statistics_are_the_members_own():
    loss = several()
    values = [loss(batch(4, seed=seed), LABELS, IDS).detach() for seed in (0, 1)]
    found = loss.statistics()
    assert list(found) == ["train/loss_classes", "train/loss_pair", "train/loss_further", "train/temperature_pair"]
    weighed = 0.5 * found["train/loss_classes"] + 2 * found["train/loss_pair"] + found["train/loss_further"]
    torch.testing.assert_close(weighed, sum(values) / 2, rtol=1e-12, atol=0)  # means over two batches
    assert "train/loss_pair" not in loss.statistics()
    loss.eval()(batch(4), LABELS, IDS)
    assert "train/loss_pair" not in loss.statistics()  # validation is no training
    keys = batch(4).detach()
    loss.update(keys, LABELS, torch.arange(24).view(4, 6))
    z, ids, _ = loss.parts["further"].loss.queue.entries()
    assert ids.tolist() == list(range(12, 18))  # of [3, 2] the second: the first are anchors
    torch.testing.assert_close(z, torch.nn.functional.normalize(keys[2], dim=-1))


@pytest.mark.parametrize(("members", "words"), [
    ({}, "loss.members"),
    ({"a": None}, "loss.members"),
    ({"a.b": {"loss": NTXent()}}, "a.b"),
    ({"train": {"loss": NTXent()}}, "train"),
    ({"a": {"views": [0, 1]}}, "loss.members.a.loss"),
    ({"a": {"loss": NTXent(), "views": [0]}}, "loss.members.a.views"),
    ({"a": {"loss": NTXent(), "views": [0, 0]}}, "loss.members.a.views"),
    ({"a": {"loss": NTXent(), "views": [0, -1]}}, "loss.members.a.views"),
    ({"a": {"loss": NTXent(), "weight": -1.0}}, "loss.members.a.weight"),
    ({"a": {"loss": NTXent(), "weight": float("nan")}}, "loss.members.a.weight"),
    ({"a": {"loss": NTXent(), "view": [0, 1]}}, "view"),
])  # fmt: skip
def test_impossible_members_are_named(members, words):
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        Joint(members)


def test_two_members_share_nothing():
    queue = Queue(8, 5)
    with pytest.raises(ValueError, match=r"loss\.members\.a and b share a Queue"):
        Joint({"a": {"loss": NTXent(queue=queue)}, "b": {"loss": InfoNCE(queue=queue)}})
    loss = build_module(config("loss=joint", "queue.size=8", "target=ema")).loss  # one of the config's is one for each
    queues = [member.loss.queue for member in loss.parts.values()]
    assert [queue.size for queue in queues] == [8, 8]
    assert queues[0] is not queues[1]


@pytest.mark.slow
def test_weights_and_members_numbers_can_be_annealed(tmp_path):
    first, second = "loss.members.labels.weight", "loss.members.samples.loss.temperature"
    annealed = f"anneal.values={{{first}:[1.0,0.0],{second}:[0.5,0.1]}}"
    code, line = status(tmp_path / "run", *TINY, "loss=joint", annealed, "trainer.max_epochs=1",
                        "trainer.limit_train_batches=2", "evaluators=[]")  # fmt: skip
    assert code == 0, line
    header = (tmp_path / "run/metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert {f"anneal/{first}", f"anneal/{second}", "train/loss_labels", "train/loss_samples"} <= set(header.split(","))


@pytest.mark.parametrize(("typed", "words"), [
    (["loss.members.samples.views=[0,2]"], ["loss.members.samples.views", "2 views"]),
    (["negatives=tilt", "anneal.values={negatives.beta:[0.0,1.0]}"], ["negatives.beta", "loss.members."]),
    (["negatives=hcl"], ["SupCon", "negatives"]),
    (["loss.members.samples.loss.learn_temperature=true",
      "anneal.values={loss.members.samples.loss.temperature:[0.5,0.1]}"], ["learn_temperature=false"]),
])  # fmt: skip
def test_mistakes_are_one_line_before_training(tmp_path, typed, words):
    code, line = status(tmp_path / "run", *TINY, "loss=joint", *typed)
    assert code == 2, line
    assert all(word in line for word in words), line
