"""The monitor: what it logs and when, and that it changes nothing."""

import math

import pytest
import torch
from conftest import TINY, command, config, run_folder
from lightning.pytorch.callbacks import Callback
from runs_here import health_lines, history, train

from repel.engine.build import build_data, build_module, build_trainer

STATEFUL = ["loss=infonce", "target=ema", "queue.size=50", "negatives=mixed", "loss.learn_temperature=true",
            "trainer.accumulate_grad_batches=2", "head=linear"]  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [pytest.param(["negatives=hcl", "loss.temperature=0.5"], marks=pytest.mark.slow), STATEFUL],
)
def test_weights_are_the_same_bits_with_and_without(tmp_path, overrides):
    watched = train(tmp_path / "a", *overrides)
    alone = train(tmp_path / "b", *overrides, "callbacks.monitor=null", "callbacks.health=null")
    assert watched.keys() == alone.keys()
    assert all(torch.equal(v, alone[k]) for k, v in watched.items())


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
    events = EventAccumulator(str(tmp_path / "a"), size_guidance={"histograms": 0})
    events.Reload()
    for name in ("similarity/positives", "similarity/negatives"):
        shown = events.Histograms(name)
        assert len(shown) == 8
        assert all(-1 <= e.histogram_value.min <= e.histogram_value.max <= 1 for e in shown)
    assert shown[0].histogram_value.num == 32 * 30  # 16 samples, 2 views: 30 negatives each


@pytest.mark.parametrize("experiment", [
    "swav", *(pytest.param(name, marks=pytest.mark.slow) for name in ("barlow", "byol", "moco", "supcon")),
])  # fmt: skip
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
    typed = [*TINY, "evaluators=[]", "data.batch_size=4", "trainer.devices=2", "negatives=debiased"]
    result = command("train.py", *typed, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = run_folder(result, tmp_path)
    rows = [row for row in history(folder) if row["train/loss"]]
    assert [float(row["negatives/number"]) for row in rows] == [6] * 8
    missing = {name for row in rows for name in NAMES if not row[name] or not math.isfinite(float(row[name]))}
    assert missing <= {"geometry/tolerance"}  # four samples may be of four classes
    assert any(row["geometry/tolerance"] for row in rows)
    assert result.stdout.count("health   ") == len(health_lines(folder)) == 1
