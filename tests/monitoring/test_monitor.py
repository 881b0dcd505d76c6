"""Geometry by closed forms, negatives by their equations, and callbacks that watch without touching."""

import csv
import math
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, command, config, run_folder
from lightning.pytorch.callbacks import Callback
from loss_cases import DIM, IDS, LABELS, NO_NEGATIVES, PAIRS, batch, make, remember, setting, with_and_without_memory
from PIL import Image
from runs_here import train

from repel.engine import checkpoint_io
from repel.engine.build import build_data, build_module, build_trainer
from repel.evaluation import geometry
from repel.images.encoders import SmallResNet
from repel.losses.gradient_weights import negative_weights
from repel.module import StepOutput
from repel.monitoring import health, symptoms
from repel.negatives import hard, mixed, soft
from repel.negatives.uniform import Uniform

# ------------------------------------------------------------------------------------------------------- closed forms


def sphere(samples: int, dim: int) -> torch.Tensor:
    """Uniform on the sphere."""
    return F.normalize(torch.randn(samples, dim, generator=torch.Generator().manual_seed(3)), dim=1)


@pytest.mark.parametrize(("samples", "dim"), [(40, 8), (8, 40)])
def test_effective_rank_of_isotropic_embeddings_is_the_smaller_size(samples, dim):
    square = torch.linalg.qr(torch.randn(max(samples, dim), min(samples, dim), dtype=torch.float64)).Q
    x = square if samples > dim else square.T  # orthonormal: all singular values are 1
    assert geometry.effective_rank(x).item() == pytest.approx(8, abs=1e-6)


def test_effective_rank_of_gaussians_comes_close_to_their_dimensions():
    ranks = [geometry.effective_rank(torch.randn(n, 16)).item() for n in (32, 512, 20000)]
    assert ranks == sorted(ranks)
    assert 15.99 < ranks[-1] <= 16


def test_effective_rank_of_one_direction_is_one_and_of_nothing_zero():
    x = torch.randn(30, 1) * torch.randn(1, 12)
    assert geometry.effective_rank(x).item() == pytest.approx(1, abs=1e-4)
    assert geometry.effective_rank(torch.ones(30, 12)).item() == pytest.approx(1, abs=1e-4)
    assert geometry.effective_rank(torch.zeros(30, 12)).item() == 0


def test_effective_rank_of_known_singular_values():
    u, v = (torch.linalg.qr(torch.randn(n, 3, dtype=torch.float64)).Q for n in (20, 7))
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    expected = math.exp(-sum(float(q) * math.log(q) for q in p))
    for scale in (1e-6, 5.0, 1e6):  # no scale matters
        assert geometry.effective_rank(scale * (u * p) @ v.T).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dim", [16, 64, 512])
def test_uniformity_on_the_sphere(dim):
    """-4 + 8 / D for large D; exactly, log E e^{4 cos - 4} with E e^{k cos} by the von Mises-Fisher normaliser."""
    exact = -4 + math.log(sum(4.0 ** (2 * j) / math.prod((2 * i) * (dim + 2 * i - 2) for i in range(1, j + 1))
                              for j in range(30)))  # fmt: skip
    assert exact == pytest.approx(-4 + 8 / dim, abs=16 / dim**2)
    assert geometry.uniformity(sphere(3000, dim)).item() == pytest.approx(exact, abs=4e-3)


def test_collapsed_embeddings():
    z = torch.ones(2, 10, 4)
    assert geometry.alignment(z).item() == geometry.uniformity(z[0]).item() == 0
    assert geometry.deviation(z[0]).tolist() == [0, 0, 0, 0]
    assert geometry.dead_dimensions(z[0], 1e-3).item() == 1


def test_alignment_is_two_less_twice_the_cosine():
    z = batch(views=3)
    s = [F.cosine_similarity(z[a], z[b], dim=-1).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert geometry.alignment(z).item() == pytest.approx(float(2 - 2 * sum(s) / 3), rel=1e-12)
    assert geometry.alignment(torch.stack([z[0], -z[0]])).item() == pytest.approx(4)
    assert geometry.alignment(100 * z).item() == pytest.approx(geometry.alignment(z).item())


def test_deviation_on_the_sphere_is_one_per_dimension():
    assert geometry.deviation(sphere(20000, 8)).tolist() == pytest.approx([1] * 8, abs=0.02)


def test_dead_dimensions_at_every_scale():
    x = torch.randn(50, 4)
    x[:, 1], x[:, 2] = 7.0, 1e-5 * x[:, 0]
    for scale in (1e-8, 1.0, 1e8):
        assert geometry.dead_dimensions(scale * x, 1e-3).item() == 0.5


def test_tolerance_is_the_mean_cosine_within_classes():
    z, labels = sphere(7, 3), torch.tensor([0, 0, 1, -1, 1, 1, -1])
    pairs = [(0, 1), (2, 4), (2, 5), (4, 5)]
    assert geometry.tolerance(z, labels).item() == pytest.approx(sum(float(z[a] @ z[b]) for a, b in pairs) / 4)
    assert geometry.tolerance(z, torch.arange(7)).isnan()


def test_numbers_of_negatives():
    alike, one = torch.full((1, 50), 0.02), F.one_hot(torch.tensor([3]), 50).float()
    for count in (geometry.effective_number, geometry.effective_sample_size):
        assert count(alike).item() == pytest.approx(50, rel=1e-5)
        assert count(one).item() == 1
    half = torch.tensor([[0.5, 0.5, 0.0]])
    assert geometry.effective_number(half).item() == pytest.approx(2)
    assert geometry.shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]


def test_margins_and_the_hardest_share():
    positive, negative = torch.tensor([0.5, 0.9]), torch.tensor([[0.7, 0.2, 0.1], [0.99, 0.3, 0.6]])
    exists = torch.tensor([[True, True, True], [False, True, True]])
    assert geometry.margins(positive, negative, exists).tolist() == pytest.approx([-0.2, 0.3])
    share = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.4, 0.6]])
    of = lambda fraction: geometry.share_of_hardest(share, negative, exists, fraction).tolist()  # noqa: E731
    assert of(0.01) == pytest.approx([0.5, 0.6])
    assert of(0.5) == pytest.approx([0.8, 0.6])  # two of three, one of two
    assert of(1.0) == pytest.approx([1, 1])


def test_false_negatives_by_hand():
    mates = torch.tensor([[True, False, False], [True, False, True]])
    exists = torch.tensor([[True, True, True], [False, True, True]])
    negative = torch.tensor([[0.7, 0.2, 0.1], [0.9, 0.8, 0.6]])
    assert geometry.false_rate(mates, exists).item() == pytest.approx(2 / 5)
    assert geometry.hardest_false_rate(mates, negative, exists).item() == 0.5
    assert geometry.false_mass(torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.4, 0.6]]), mates).tolist() == pytest.approx(
        [0.5, 0.6]
    )


# --------------------------------------------------------------------------------------------------- what a loss pushes


def look(loss, z, anchors: int = 100, target=None):
    return negative_weights(loss, z, z if target is None else target, LABELS, IDS, anchors)


def test_weights_of_infonce_are_its_softmax():
    z, t = batch(), 0.3
    seen = look(make("ntxent", temperature=t), z)
    s = (flat := F.normalize(z, dim=-1).flatten(0, 1)) @ flat.T
    p = (s / t).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf).softmax(1)
    torch.testing.assert_close(seen.weight, p.masked_fill(~seen.is_negative, 0))
    assert seen.is_negative.sum(1).tolist() == [10] * 12
    torch.testing.assert_close(seen.negative, s.detach())
    torch.testing.assert_close(seen.positive[:, 0], s.detach().diagonal(6).repeat(2))
    assert seen.temperature.item() == pytest.approx(t)


@pytest.mark.parametrize(("strategy", "number"), [
    (Uniform(), 10), (hard.TopK(1), 1), (hard.TopK(3), 3), (soft.Tilt(5.0, "max", True), 10), (soft.Debiased(0.0), 10),
])  # fmt: skip
def test_all_negatives_alike_act_as_many_as_are_kept(strategy, number):
    """A simplex: every pair of samples has the same cosine, so nothing but the strategy's choice tells them apart."""
    z = torch.eye(6, dtype=torch.float64).expand(2, -1, -1)
    share = geometry.shares(look(make("ntxent", strategy), z).weight)
    assert geometry.effective_number(share).tolist() == pytest.approx([number] * 12)


def test_a_tilt_acts_as_a_lower_temperature_for_negatives():
    """Detached, the softmax at t / (1 + beta); see Tilt."""
    z, t, beta = batch(), 0.5, 1.5
    tilted = look(make("ntxent", soft.Tilt(beta, "max", True), temperature=t), z)
    cold = look(make("ntxent", temperature=t / (1 + beta)), z)
    torch.testing.assert_close(geometry.shares(tilted.weight), geometry.shares(cold.weight))


def test_synthetic_negatives_are_weighed_too():
    strategy = mixed.Mixed(4, 3, 2, seed=1)
    z = batch()
    seen = look(make("ntxent", strategy), z)
    assert seen.weight.shape == (12, 12 + 5)
    assert (seen.weight[:, 12:] > 0).all()
    assert geometry.shares(seen.weight).sum(1).tolist() == pytest.approx([1] * 12)


def test_anchors_at_the_floor_push_nothing():
    z = batch().detach()[:1].expand(2, -1, -1)
    assert not look(make("ntxent", soft.Debiased(0.1), temperature=0.05), z).weight.any()


def test_supervised_positives_are_no_negatives():
    seen = look(make("supcon"), batch())
    same = LABELS.repeat(2)[:, None] == LABELS.repeat(2)
    assert torch.equal(seen.is_negative, ~same)
    assert torch.equal(seen.same_class, same)
    assert not (seen.weight > 0)[same].any()


@with_and_without_memory()
def test_a_look_changes_nothing(pair, memory):
    """For every loss and strategy: state, statistics, gradients and random numbers stay; what is seen is finite."""
    loss, arguments = setting(pair, 2, memory)
    z = batch()
    loss(z, **arguments)
    random, state = torch.get_rng_state(), {k: v.clone() for k, v in loss.state_dict().items()}
    seen = look(loss, z, target=arguments.get("target"))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in loss.state_dict().items())
    assert all(p.grad is None for p in loss.parameters())
    assert z.grad is None
    assert all(m.training for m in loss.modules())
    other, _ = setting(pair, 2, memory)
    other(z, **arguments)
    assert {k: float(v) for k, v in loss.statistics().items()} == {k: float(v) for k, v in other.statistics().items()}
    assert (seen.weight is None) == (pair[0] in NO_NEGATIVES)
    assert all(t is None or t.isfinite().all() for t in seen)
    assert seen.is_negative.any(1).all()
    assert seen.weight is None or (seen.weight.sum(1) > 0).any() or pair[1] in ("semi_hard", "debiased", "hcl")


def test_fewer_anchors_are_some_of_all():
    loss = remember(make("infonce", queue=8))
    every, some = (look(loss, batch(), anchors) for anchors in (12, 4))
    places = [0, 3, 6, 9]  # evenly spaced over both views
    for all_of_them, a_part in zip(every[:-1], some[:-1], strict=True):
        torch.testing.assert_close(a_part, all_of_them[places])


# ----------------------------------------------------------------------------------------------------------- callbacks

STATEFUL = ["loss=infonce", "target=ema", "queue.size=50", "negatives=mixed", "loss.learn_temperature=true",
            "trainer.accumulate_grad_batches=2", "head=linear"]  # fmt: skip


@pytest.mark.parametrize("overrides", [["negatives=hcl", "loss.temperature=0.5"], STATEFUL])
def test_weights_are_the_same_bits_with_and_without(tmp_path, overrides):
    watched = train(tmp_path / "a", *overrides)
    alone = train(tmp_path / "b", *overrides, "callbacks.monitor=null", "callbacks.health=null")
    assert watched.keys() == alone.keys()
    assert all(torch.equal(v, alone[k]) for k, v in watched.items())


def history(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


NAMES = {
    "geometry/alignment", "geometry/uniformity", "geometry/effective_rank", "geometry/deviation", "geometry/tolerance",
    "geometry/dead_dimensions", "similarity/positive", "similarity/negative", "similarity/margin",
    "similarity/violation_rate", "negatives/number", "negatives/effective_number", "negatives/effective_sample_size",
    "negatives/hardest_1pct_gradient_share", "negatives/false_rate", "negatives/hardest_false_rate",
    "negatives/false_mass", "negatives/anchors_without_gradient", "train/temperature", "train/gradient_norm",
}  # fmt: skip


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_logged_and_when(tmp_path, accumulate):
    train(tmp_path / "a", "trainer.log_every_n_steps=2", f"trainer.accumulate_grad_batches={accumulate}",
          "negatives=debiased")  # fmt: skip
    rows = history(tmp_path / "a")
    steps = [int(row["step"]) for row in rows if row["train/loss"]]
    assert steps == list(range(1, 8 // accumulate, 2))
    for name in NAMES | {"negatives/clamped_fraction"}:
        assert [int(row["step"]) for row in rows if row[name]] == steps, name
    assert all(float(row["train/temperature"]) == pytest.approx(0.2) for row in rows if row["train/temperature"])
    assert len([row for row in rows if row["val/h_effective_rank"]]) == 2  # once an epoch


def test_histograms_have_fixed_edges(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "a")
    events = EventAccumulator(str(tmp_path / "a/tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    for name in ("similarity/positives", "similarity/negatives"):
        shown = events.Histograms(name)
        assert len(shown) == 8
        assert all(-1 <= e.histogram_value.min <= e.histogram_value.max <= 1 for e in shown)
    assert shown[0].histogram_value.num == 32 * 30  # 16 samples, 2 views: 30 negatives each


@pytest.mark.parametrize("experiment", ["barlow", "byol", "swav", "moco", "supcon"])
def test_losses_of_all_kinds_are_watched(tmp_path, experiment):
    train(tmp_path / "a", f"experiment=[debug,{experiment}]", "head.out_features=8", "queue.size=40")
    row = next(row for row in history(tmp_path / "a") if row["train/loss"])
    expected = NAMES
    if experiment in ("barlow", "byol", "swav"):
        known = {"negatives/number", "negatives/false_rate", "negatives/hardest_false_rate", "train/gradient_norm"}
        expected = {name for name in NAMES if not name.startswith(("negatives/", "train/"))} | known
    elif experiment == "supcon":
        assert float(row["negatives/false_rate"]) == float(row["negatives/false_mass"]) == 0
    assert all(math.isfinite(float(row[name])) for name in expected)


def test_the_gradient_norm_is_that_of_the_step_before_clipping(tmp_path):
    seen = []

    class Norm(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append(math.sqrt(sum(p.grad.square().sum() for p in module.parameters() if p.grad is not None)))

    cfg = config(*TINY, "trainer.gradient_clip_val=0.01", "trainer.max_epochs=1")
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg, tmp_path, None)
    trainer.callbacks.append(Norm())
    trainer.fit(module, data)
    logged = [float(row["train/gradient_norm"]) for row in history(tmp_path) if row["train/gradient_norm"]]
    assert logged == pytest.approx(seen, rel=1e-5)
    assert min(logged) > 0.01


@pytest.mark.parametrize("key", ["monitor.anchors=1", "monitor.features=0.5"])
def test_senseless_options_are_refused(key, tmp_path):
    with pytest.raises(Exception, match=rf"callbacks.{key.split('=')[0]} must be"):
        build_trainer(config(*TINY, f"callbacks.{key}"), tmp_path, None)


@pytest.mark.slow
def test_two_ranks_measure_the_gathered_batch_and_speak_once(tmp_path):
    result = command("train.py", *TINY, "data.batch_size=4", "trainer.devices=2", "negatives=debiased", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = run_folder(result, tmp_path)
    rows = [row for row in history(folder) if row["train/loss"]]
    assert [float(row["negatives/number"]) for row in rows] == [6] * 8
    assert all(math.isfinite(float(row[name])) for row in rows for name in NAMES)
    assert result.stdout.count("health   ") == len(told(folder)) == 1


# -------------------------------------------------------------------------------------------------------------- health


def told(folder) -> list[str]:
    file = folder / "health.txt"
    return file.read_text().splitlines() if file.exists() else []


LONG = ["trainer.limit_train_batches=30", "trainer.max_epochs=1", "callbacks.knn=null"]


def said(folder, capsys, *overrides: str) -> list[str]:
    """What a run said, on stdout and in its file alike."""
    train(folder, *LONG, *overrides)
    lines = [
        line.removeprefix("health   ") for line in capsys.readouterr().out.splitlines() if line.startswith("health ")
    ]
    assert lines == told(folder)
    return lines


def images(root, pixels) -> list[str]:
    """Overrides for a folder of these images, as arrays (H, W)."""
    for i, image in enumerate(pixels):
        (root / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(root / f"{i % 2}/{i:03d}.png")
    return ["data=image_folder", f"data.root={root}", "data.val_fraction=0.1", "trainer.limit_train_batches=1.0"]


def test_constant_images(tmp_path, capsys):
    grey = torch.arange(80, dtype=torch.uint8)[:, None, None].expand(-1, 12, 12) * 3
    lines = said(tmp_path / "a", capsys, *images(tmp_path / "images", grey.contiguous()), "trainer.max_epochs=25")
    assert len(lines) == 1
    assert "every one of 16 inputs has the same value everywhere" in lines[0]


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


def test_a_learning_rate_100_times_too_high(tmp_path, capsys):
    lines = said(tmp_path / "a", capsys, "optimizer.lr=0.3")
    assert any(re.search(r"one step moves the weights by \d+% .* Divide optimizer.lr by 10", line) for line in lines)


def test_a_temperature_100_times_too_low(tmp_path, capsys):
    lines = said(tmp_path / "a", capsys, "loss.temperature=0.005", "negatives=debiased")
    words = r"temperature of 0.005 is too low for 8 dimensions: .* 30 negatives were spread evenly, only 1\.\d+ would"
    assert any(re.search(words, line) for line in lines)


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


@pytest.mark.parametrize("overrides", [[], ["negatives=hcl", "loss.temperature=0.5"], ["experiment=[debug,moco]"],
                                       ["experiment=[debug,byol]"], ["experiment=[debug,barlow]"]])  # fmt: skip
def test_runs_that_are_well_say_nothing(tmp_path, capsys, overrides):
    assert said(tmp_path / "a", capsys, *overrides, "encoder.width=8", "head.out_features=32") == []


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_default_run_says_nothing(tmp_path):
    result = command("train.py", "trainer.max_epochs=3", cwd=tmp_path, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "health" not in result.stdout
    assert told(run_folder(result, tmp_path)) == []


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
    module.loss = make("infonce", queue=50)  # of which nothing is filled
    assert not risen([5.0] * size + [6.0] * 2 * size, module)


def test_what_was_told_is_told_once_a_run(tmp_path, capsys):
    said(tmp_path / "a", capsys, "data.batch_size=2")
    state = checkpoint_io.load(tmp_path / "a/checkpoints/last.ckpt")["callbacks"]["Health"]
    assert state == {"told": ["few"]}
    resumed = health.Health()
    resumed.load_state_dict(state)
    assert resumed.reported == ["few"]
