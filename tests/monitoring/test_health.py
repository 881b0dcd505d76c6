"""Warnings: each symptom is reported in one line, and a healthy run reports nothing."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import command, run_folder
from loss_cases import DIM, IDS, LABELS, PAIRS, batch, make
from PIL import Image
from runs_here import health_lines, train

from repel.engine import checkpoint_io
from repel.images.encoders import SmallResNet
from repel.losses.gradient_weights import negative_weights
from repel.module import StepOutput
from repel.monitoring import health, symptoms

LONG = ["trainer.limit_train_batches=30", "trainer.max_epochs=1", "callbacks.knn=null"]


def said(folder, capsys, *overrides: str) -> list[str]:
    """What a run said, on stdout and in its file alike."""
    train(folder, *LONG, *overrides)
    lines = [
        line.removeprefix("health   ") for line in capsys.readouterr().out.splitlines() if line.startswith("health ")
    ]
    assert lines == health_lines(folder)
    return lines


def images(root, pixels) -> list[str]:
    """Overrides for a folder of these images, as arrays (H, W)."""
    for i, image in enumerate(pixels):
        (root / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(root / f"{i % 2}/{i:03d}.png")
    return ["data=image_folder", f"data.root={root}", "data.image_size=12", "data.val_fraction=0.1",
            "trainer.limit_train_batches=1.0"]  # fmt: skip


@pytest.mark.slow
def test_constant_images(tmp_path, capsys):
    grey = torch.arange(80, dtype=torch.uint8)[:, None, None].expand(-1, 12, 12) * 3
    lines = said(tmp_path / "a", capsys, *images(tmp_path / "images", grey.contiguous()), "trainer.max_epochs=25")
    assert len(lines) == 1
    assert "every one of 16 inputs has the same value everywhere" in lines[0]


@pytest.mark.slow
def test_identical_images(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    same = torch.randint(0, 256, (12, 12), dtype=torch.uint8, generator=generator).expand(80, -1, -1).contiguous()
    lines = said(tmp_path / "a", capsys, *images(tmp_path / "images", same), "views=plain")
    assert len(lines) == 1
    assert "all 16 inputs are identical" in lines[0]


def test_a_batch_of_two(tmp_path, capsys):
    lines = said(tmp_path / "a", capsys, "data.batch_size=2")
    assert len(lines) == 1
    assert "an anchor has 2 negatives, in a batch of 2 samples" in lines[0]


@pytest.mark.slow
def test_features_of_zero(tmp_path, capsys, monkeypatch):
    forward = SmallResNet.forward
    monkeypatch.setattr(SmallResNet, "forward", lambda self, x: 0 * forward(self, x))
    lines = said(tmp_path / "a", capsys)
    assert len(lines) == 1
    assert "all 32 features of all 32 inputs are 0" in lines[0]


def test_features_that_are_all_the_same(tmp_path, capsys, monkeypatch):
    """The network may do what it likes after that: its embeddings are equal, and the loss is log(2N - 1)."""
    forward = SmallResNet.forward
    monkeypatch.setattr(SmallResNet, "forward", lambda self, x: 0 * forward(self, x) + 1)
    lines = said(tmp_path / "a", capsys)
    assert [line.split()[1] for line in lines] == ["21:", "21:"]
    closed = f"{math.log(31):.4f}"
    assert f"mean cosine of 1.000, and the loss is {closed}, which for equal embeddings is {closed}. Try" in lines[0]
    assert "100% of the feature dimensions do not vary" in lines[1]


@pytest.mark.slow
def test_a_learning_rate_100_times_too_high(tmp_path, capsys):
    lines = said(tmp_path / "a", capsys, "optimizer.lr=0.3")
    assert any(re.search(r"one step moves the weights by \d+% .* Divide optimizer.lr by 10", line) for line in lines)


@pytest.mark.slow
def test_a_temperature_100_times_too_low(tmp_path, capsys):
    lines = said(tmp_path / "a", capsys, "loss.temperature=0.005", "negatives=debiased")
    words = r"temperature of 0.005 is too low for 8 dimensions: .* 30 negatives were spread evenly, only 1\.\d+ would"
    assert any(re.search(words, line) for line in lines)


@pytest.mark.slow
def test_debiasing_at_its_floor(tmp_path, capsys):
    lines = said(tmp_path / "a", capsys, "loss.temperature=0.1", "negatives=debiased", "views=plain")
    assert any(re.search(r"debiasing is clamped for \d+% of the anchors", line) for line in lines)


@pytest.mark.slow
def test_copies_of_one_image_are_at_chance(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    same = torch.randint(0, 256, (12, 12), dtype=torch.uint8, generator=generator).expand(800, -1, -1).contiguous()
    lines = said(
        tmp_path / "a",
        capsys,
        *images(tmp_path / "images", same),
        "data.batch_size=128",
        "trainer.max_epochs=26",
        "trainer.log_every_n_steps=10",
        "trainer.check_val_every_n_epoch=200",
    )
    assert any("the loss is at chance" in line for line in lines)


@pytest.mark.parametrize("overrides", [
    [], *(pytest.param(more, marks=pytest.mark.slow) for more in (
        ["negatives=hcl", "loss.temperature=0.5"], ["experiment=[debug,moco]"], ["experiment=[debug,byol]"],
        ["experiment=[debug,barlow]"],
    )),
])  # fmt: skip
def test_runs_that_are_well_say_nothing(tmp_path, capsys, overrides):
    assert said(tmp_path / "a", capsys, *overrides, "encoder.width=8", "head.out_features=32") == []


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_default_run_says_nothing(tmp_path):
    result = command(
        "train.py", "trainer.max_epochs=1", "evaluators=[]", "evaluation.map=null", cwd=tmp_path, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert "health" not in result.stdout
    assert health_lines(run_folder(result, tmp_path)) == []


def step(z: torch.Tensor) -> StepOutput:
    return StepOutput(torch.zeros(()), z.flatten(0, 1), z, z, LABELS, IDS)


@pytest.mark.parametrize("name", sorted({pair[0] for pair in PAIRS}))
def test_collapse_is_seen_for_every_loss(name):
    """Almost equal embeddings have almost the loss of equal ones; random ones are no collapse."""
    loss = make(name)
    spread = batch().detach()
    near = torch.ones_like(spread) + 1e-4 * spread
    (found,) = symptoms.collapse(loss, step(near), float(loss(near, LABELS, IDS, target=near)))
    assert "have collapsed: different samples have a mean cosine of 1.000" in found.message
    assert not list(symptoms.collapse(loss, step(spread), float(loss(spread, LABELS, IDS, target=spread))))


def test_a_narrow_cone_is_no_collapse_for_a_loss_that_does_not_mind():
    """VICReg takes the mean out: embeddings may all point the same way and still vary."""
    loss = make("vicreg")
    z = batch(samples=64).detach() * 3 + 100
    z[1] = z[0]
    labels = ids = torch.arange(64)
    there = StepOutput(torch.zeros(()), z.flatten(0, 1), z, z, labels, ids)
    assert not list(symptoms.collapse(loss, there, float(loss(z, labels, ids, target=z))))


def chances(z, ids) -> list:
    loss, there = make("ntxent"), StepOutput(torch.zeros(()), z[0], z, z, None, ids)
    return list(symptoms.chance(loss, there, negative_weights(loss, z, z, None, ids, symptoms.ANCHORS), 6.0))


def test_chance_is_no_difference_between_positives_and_negatives():
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 400, DIM, generator=generator, dtype=torch.float64)
    ids = torch.arange(400)
    assert chances(views, ids)
    assert not chances(torch.stack([views[0], views[0] + views[1]]), ids)


def risen(losses, module) -> list[tuple[float, float]]:
    found, watch = [], health.LossHistory()
    for value in losses:
        watch.add(torch.tensor(value))
        found.append(watch.rise(module))
    return [f for f in found if f]


def test_a_loss_that_rises_diverges():
    """Above its start for two windows; a peak that passes, or a queue that fills, is none."""
    size = health.WINDOW
    module = SimpleNamespace(loss=make("ntxent"), anneal=SimpleNamespace(values={}))
    assert risen([5.0] * size + [6.0] * 2 * size, module)[0] == pytest.approx((5, 6))
    assert risen([-5.0] * size + [-4.0] * 2 * size, module)[0] == pytest.approx((-5, -4))
    assert not risen([5.0] * size + [6.0] * size + [5.0] * 3 * size, module)
    assert not risen([0.1] * 4 * size, module)
    module.anneal.values = {"target.momentum": [0.99, 1.0]}
    assert risen([5.0] * size + [6.0] * 2 * size, module)
    module.anneal.values = {"negatives.beta": [0.0, 1.0]}
    assert not risen([5.0] * size + [6.0] * 2 * size, module)
    module.anneal.values = {}
    module.loss = make("infonce", queue=50)  # of which nothing is filled
    assert not risen([5.0] * size + [6.0] * 2 * size, module)


@pytest.mark.slow
def test_what_was_told_is_told_once_a_run(tmp_path, capsys):
    said(tmp_path / "a", capsys, "data.batch_size=2")
    state = checkpoint_io.load(tmp_path / "a/checkpoints/last.ckpt")["callbacks"]["Health"]
    assert state == {"told": ["few"]}
    resumed = health.Health()
    resumed.load_state_dict(state)
    assert resumed.reported == ["few"]
