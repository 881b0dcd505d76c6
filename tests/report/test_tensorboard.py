"""TensorBoard: columns of HPARAMS, the projector of any number and shape of images, runs of the first edition."""

import math

import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig

from repel.evaluation.measurement import Measurement, ReportRow, Score
from repel.evaluation.protocol import Part
from repel.images.contact_sheet import picture
from repel.images.memory import Images
from repel.monitoring.tensorboard import chosen_values
from repel.report import projector
from repel.report.report import Report
from repel.report.tensorboard import write_tensorboard

VALUES = {
    "loss._target_": "repel.losses.NTXent", "loss.temperature": 0.2, "loss.row_chunk": "auto", "optimizer.lr": 1e-3,
    "data.batch_size": 64, "negatives.beta": 2, "evaluation.bank": 500, "trainer.precision": 32,
    "callbacks.best._target_": "x.Best", "encoder.name": "resnet10t", "anneal.values": {"a": [0, 1]},
}  # fmt: skip
TYPED = [
    "+negatives.beta=2", "loss.row_chunk=auto", "evaluation.bank=500", "~callbacks.best", "encoder.name=resnet10t",
    "trainer.precision=32", "experiment=[debug,swav]", "anneal.values={a:[0,1]}", "loss=ntxent",
]  # fmt: skip


def test_hparams_are_what_was_typed_and_a_few_of_every_run():
    environment = {"overrides": TYPED, "choices": {"loss": "ntxent", "views": "byol"}}
    assert chosen_values(VALUES, environment) == {
        "negatives.beta": 2, "encoder.name": "resnet10t", "trainer.precision": "32", "experiment": "[debug,swav]",
        "anneal.values": "{'a': [0, 1]}", "loss": "ntxent", "views": "byol", "loss.temperature": 0.2,
        "optimizer.lr": 1e-3, "data.batch_size": 64, "overrides": " ".join(TYPED),
    }  # fmt: skip
    assert chosen_values(VALUES, {})["loss"] == "NTXent"  # of version 0.1, which noted no choices


@pytest.mark.parametrize(
    ("n", "shape", "limit"),
    [
        (100, (1, 40, 100), None),
        (3000, (3, 12, 8), None),
        pytest.param(30_000, (1, 4, 64), None, marks=pytest.mark.slow),
        (7, (3, 5, 4), 3),
        (1, (1, 3, 3), 9),
    ],
    ids=str,
)
def test_the_projector_takes_any_number_and_shape_of_images(tmp_path, n, shape, limit):
    y = torch.arange(n) % 2
    pixels = (torch.arange(n) % 251).byte().view(n, 1, 1, 1).expand(n, *shape)
    part = Part(torch.stack([torch.arange(n).float(), torch.ones(n)], 1), y, Images(pixels, y))
    projector.write_projector(tmp_path, part, ["a\tb", ""], limit)
    shown = n if limit is None else min(n, limit)
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(encoding="utf-8"), ProjectorConfig())
    (embedding,) = config.embeddings
    assert list(embedding.tensor_shape) == [shown, 2]
    points = [line.split("\t") for line in (tmp_path / embedding.tensor_path).read_text().splitlines()]
    assert len(points) == shown
    names = (tmp_path / embedding.metadata_path).read_text(encoding="utf-8").splitlines()
    assert len(names) == shown
    assert set(names) <= {"a b", projector.EMPTY}
    sprite = Image.open(tmp_path / embedding.sprite.image_path).convert("L")
    wide, high = embedding.sprite.single_image_dim
    columns = math.ceil(math.sqrt(shown))
    assert wide == high <= 32
    assert sprite.width == columns * wide <= 4096
    assert sprite.height <= 4096
    for place in {0, shown // 2, shown - 1}:  # the picture of a point: where the projector looks for it
        middle = (place % columns * wide + wide // 2, place // columns * high + high // 2)
        assert sprite.getpixel(middle) == int(float(points[place][0])) % 251


def test_pictures_keep_their_proportions():
    made = picture(torch.zeros(1, 40, 100, dtype=torch.uint8), 50)
    assert made.size == (50, 50)
    assert Image.eval(made.convert("L"), lambda v: 255 - v).getbbox() == (0, 15, 50, 35)


def test_a_run_of_the_first_edition_goes_on_in_its_folder(tmp_path):
    row = ReportRow("best", "best on validation", "h", lambda: None, 1, True)
    measured = [Measurement(row, "class", "knn", Score(key, key, 0.5, {}), 1, 10, 10) for key in ("knn_top1", "other")]
    found = {}
    for name, old in (("new", False), ("old", True)):
        place = tmp_path / name / ("tensorboard" if old else "")
        place.mkdir(parents=True)
        write_tensorboard(tmp_path / name, 7, Report(measured, [], None, []), [], None)
        events = EventAccumulator(str(place))
        events.Reload()
        found[name] = events.Tags()["scalars"]
        assert len(list((tmp_path / name).rglob("events*"))) == 1
    assert found == {"new": ["3_test/knn_top1"], "old": ["test/knn_top1"]}
