"""What a run leaves, and that it learns: files, metrics, checkpoints, the best and the last; on own images too."""

import csv
import json
import math
import re

import pytest
import torch
from conftest import TINY, config, make_folder
from lightning.pytorch import Callback
from runs_here import train

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_data, build_module, build_trainer
from repel.engine.configs import load_config
from repel.images import contact_sheet as sheet
from repel.report.evaluate import finish


class TestWhatARunLeaves:
    def test_files(self, finished):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_debug", finished.name)
        assert finished.parent.parts[-2:] == ("runs", "train")
        files = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
        files = {f for f in files if not f.startswith("events.out.tfevents.")}
        records = {"config.yaml", "environment.json", "metrics.json", "metrics.csv", "evaluation.json", "report.html"}
        projector = {f"projector/{name}" for name in ("tensors.tsv", "metadata.tsv", "sprite.png")}
        checkpoints = {"checkpoints/last.ckpt", "checkpoints/best.ckpt"}
        assert files == records | checkpoints | projector | {"projector_config.pbtxt"}

    def test_metrics(self, finished):
        metrics = json.loads((finished / "metrics.json").read_text())
        expected = {"train/loss", "train/steps", "val/loss", "val/knn_top1", "test/knn_top1", "test/best_knn_top1"}
        expected |= {"baseline/raw_knn_top1", "baseline/untrained_knn_top1", "test/season_knn_top1", "test/knn200_top1"}
        expected |= {"speed/samples_per_second", "speed/data_wait_fraction", "speed/training_seconds"}
        assert expected <= set(metrics)
        assert metrics["train/steps"] == 8
        assert all(0 <= v <= 1 for k, v in metrics.items() if "top1" in k or "fraction" in k)
        assert metrics["baseline/raw_knn_top1"] == pytest.approx(0.7455, abs=1e-3)  # of the bundled data, known
        with (finished / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(r["step"]) for r in rows if r["train/loss"]] == list(range(8))
        assert len([r for r in rows if r["val/knn_top1"]]) == 2

    def test_environment_and_config(self, finished):
        environment = json.loads((finished / "environment.json").read_text())
        assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
        assert "head.out_features=8" in environment["overrides"]
        assert runs.read_config(finished)["head"]["out_features"] == 8
        assert "${" not in (finished / "config.yaml").read_text()

    def test_tensorboard(self, finished):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(finished))
        events.Reload()
        tags = events.Tags()
        groups = list(dict.fromkeys(tag.split("/")[0] for tag in sorted(tags["scalars"])))  # as TensorBoard sorts
        assert groups == ["1_train", "2_val", "3_test", "geometry", "negatives", "similarity", "speed"]
        assert {"1_train/loss", "2_val/knn_top1", "1_train/lr-AdamW_pg1", "geometry/alignment"} <= set(tags["scalars"])
        assert [tag for tag in tags["scalars"] if len(events.Scalars(tag)) == 1] == ["3_test/knn_top1"]
        assert set(tags["tensors"]) == {"run/config", "results/test"}  # texts; kNN fits nothing on the validation split
        (table,) = events.Tensors("results/test")[0].tensor_proto.string_val
        knn = json.loads((finished / "metrics.json").read_text())
        for name in ("test/knn_top1", "baseline/raw_knn_top1", "test/season_knn_top1", "test/best_knn200_top1"):
            assert f" {knn[name]:.4f} |".encode() in table
        sheets = {f"embedding/{name}" for name in ("neighbours", "map", "similarities")}
        assert set(tags["images"]) == {"views/pairs"} | sheets
        assert len((finished / "projector/metadata.tsv").read_text().splitlines()) == 600  # validation images
        image = events.Images("views/pairs")[0]
        cell = sheet.CELL + sheet.GAP  # four images, plain and their two views with what was drawn
        assert image.width == 4 * cell + sheet.GAP
        assert image.height == 3 * cell + sheet.GAP + sheet.LINE * (1 + 2 * sheet.LINES)

    def test_hparams_of_tensorboard(self, finished):
        """A column for what was typed, and for what is looked at in every run."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams import plugin_data_pb2

        events = EventAccumulator(str(finished))
        events.Reload()
        start, experiment = (
            plugin_data_pb2.HParamsPluginData.FromString(
                events.summary_metadata[f"_hparams_/{name}"].plugin_data.content
            )
            for name in ("session_start_info", "experiment")
        )
        columns = start.session_start_info.hparams
        assert columns["encoder.width"].number_value == 4
        assert (columns["loss"].string_value, columns["data"].string_value) == ("ntxent", "fashion_mini")
        assert columns["overrides"].string_value.startswith("experiment=debug encoder.width=4 ")
        assert 12 <= len(columns) <= 16
        assert {info.name for info in experiment.experiment.hparam_infos} == set(columns)
        metrics = {info.display_name: info.name.tag for info in experiment.experiment.metric_infos}
        assert metrics["test/knn_top1"] == "3_test/knn_top1"
        assert list(metrics) == ["test/knn_top1", "test/linear_top1", "val/knn_top1", "val/loss", "train/loss"]

    def test_checkpoints_load_without_running_code(self, finished):
        for name in ("last", "best"):
            contents = torch.load(finished / f"checkpoints/{name}.ckpt", weights_only=True)
            assert contents["config"]["seed"] == 1
        assert checkpoint_io.load(finished / "checkpoints/last.ckpt")["global_step"] == 8


@pytest.mark.slow
def test_training_learns(tmp_path):
    """More than a loss that goes down: features of unseen test images beat those before the first step."""
    train(
        tmp_path / "a",
        "encoder.width=8",
        "trainer.limit_train_batches=60",
        "data.batch_size=32",
        "trainer.max_epochs=1",
        "evaluation.bank=1000",
    )
    finish(load_config(runs.read_config(tmp_path / "a")), tmp_path / "a", None)
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    assert metrics["test/knn_top1"] > metrics["baseline/untrained_knn_top1"] + 0.05


def test_best_is_the_best_and_last_is_the_last(tmp_path, monkeypatch):
    """With a metric that is NaN, rises and falls; test_best_checkpoint.py has the ties."""
    values = iter([math.nan, 0.3, 0.6, 0.5, 0.55])
    monkeypatch.setattr("repel.monitoring.validation_knn.accuracy", lambda *args: next(values))
    train(tmp_path / "a", "trainer.max_epochs=5")
    best, last = (checkpoint_io.load(tmp_path / f"a/checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert (best["epoch"], last["epoch"]) == (2, 4)
    assert last["callbacks"]["BestCheckpoint"]["best"] == pytest.approx(0.6)


def test_without_knn_the_loss_chooses(tmp_path):
    train(tmp_path / "a", "callbacks.knn=null", "callbacks.progress=null", "logger.tensorboard=null")
    with (tmp_path / "a/metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    best = checkpoint_io.load(tmp_path / "a/checkpoints/best.ckpt")
    assert best["callbacks"]["BestCheckpoint"]["best"] == pytest.approx(-min(losses))


FOLDER = ["data=image_folder", "data.image_size=12", "data.batch_size=4", "callbacks.progress=null",
          "callbacks.monitor=null", "logger.tensorboard=null", "trainer.max_epochs=2"]  # fmt: skip


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (
            {".": ["images"]},
            "note     all training samples are of one class, images: that is no label; val/loss",
        ),
        ({"train": ["a", "b"], "val": ["c"]}, "note     all 10 validation images are of classes that training lacks"),
    ],
    ids=["one class", "new classes"],
)
def test_a_metric_that_cannot_change_chooses_nothing(tmp_path, capsys, folders, line):
    """kNN would be 1.0, or 0.0, in every epoch, and the first one the best."""
    for split, classes in folders.items():
        make_folder(tmp_path / "images" / split, classes, 10)
    train(tmp_path / "a", *FOLDER, f"data.root={tmp_path / 'images'}", "data.val_fraction=0.2")
    rows = list(csv.DictReader((tmp_path / "a/metrics.csv").read_text(encoding="utf-8").splitlines()))
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert len(losses) == 2
    assert "val/knn_top1" not in rows[0]
    best = checkpoint_io.load(tmp_path / "a/checkpoints/best.ckpt")
    assert best["callbacks"]["BestCheckpoint"]["best"] == pytest.approx(-min(losses))
    assert best["epoch"] == losses.index(min(losses))
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "steps"),
    [("0.01", 3), pytest.param("7", 7, marks=pytest.mark.slow), ("1.0", 371)],
)
def test_limits_of_an_epoch(tmp_path, limit, steps):
    """A fraction is applied once, and every epoch has the same length, a new order and a validation."""
    seen = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(tuple(batch.ids[0].tolist()))
            if len(seen) > 3 * min(steps, 7):
                trainer.should_stop = True

    cfg = config(*TINY, f"trainer.limit_train_batches={limit}", "trainer.max_epochs=3", "callbacks.knn=null")
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg, tmp_path, None)
    trainer.callbacks.append(Seen())
    data.trainer = trainer
    data.setup()
    assert data.batches_per_epoch() == steps
    if steps < 10:
        trainer.fit(module, data)
        assert len(seen) == 3 * steps
        assert len({frozenset(sum(seen[i : i + steps], ())) for i in (0, steps, 2 * steps)}) == 3
        assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3 * steps
        with (tmp_path / "metrics.csv").open() as file:
            assert len([row for row in csv.DictReader(file) if row["val/loss"]]) == 3


@pytest.mark.slow
def test_own_images_without_labels(tmp_path, capsys):
    make_folder(tmp_path / "images", ["."], 40)
    train(
        tmp_path / "a",
        "data=image_folder",
        f"data.root={tmp_path / 'images'}",
        "data.image_size=12",
        "data.batch_size=4",
        "data.val_fraction=0.1",
    )
    assert finish(load_config(runs.read_config(tmp_path / "a")), tmp_path / "a", None) is not None
    printed = capsys.readouterr().out
    assert "no labels" in printed
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    assert not [name for name in metrics if "knn" in name]
    assert "Nothing was measured: the data has no labels" in (tmp_path / "a/report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a/evaluation.json").read_text())["records"] == []
    assert checkpoint_io.load(tmp_path / "a/checkpoints/best.ckpt")  # by val/loss


def test_labels_are_asked_for_before_training(tmp_path):
    make_folder(tmp_path / "images", ["."], 40)
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12", "data.batch_size=4",
              "data.val_fraction=0.1"]  # fmt: skip
    with pytest.raises(ValueError, match="labels"):
        train(tmp_path / "a", *source, "negatives=false_negatives", "negatives.labels=true")


@pytest.mark.slow
def test_own_images_with_labels_and_broken_files(tmp_path, capsys):
    make_folder(tmp_path / "images", ["red", "green"], 30)
    (tmp_path / "images/red/broken.jpg").write_bytes(b"nothing")
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12", "data.batch_size=4",
              "data.val_fraction=0.1"]  # fmt: skip
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        train(tmp_path / "a", *source)
    train(tmp_path / "b", *source, "data.on_error=skip")
    assert "1 unreadable files" in capsys.readouterr().out
    assert "broken.jpg" in (tmp_path / "b/skipped.txt").read_text()
    finish(load_config(runs.read_config(tmp_path / "b")), tmp_path / "b", None)
    assert json.loads((tmp_path / "b/metrics.json").read_text())["baseline/raw_knn_top1"] == 1.0
