"""What labels can tell: one class, classes that training lacks, and so many that a fit would not end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_protocol import evaluator, images

from repel.data.datamodule import PairData
from repel.data.samples import Splits
from repel.engine.notes import notes_on_tasks, notes_on_test_labels, notes_on_val_labels
from repel.evaluation.fit_progress import FitProgress
from repel.evaluation.linear import FewLabels, LinearProbe
from repel.evaluation.protocol import Network, Part, ReportRow, measure
from repel.images.memory import Images
from repel.images.views.normalize import Normalize
from repel.report.table import make_table

NORMALIZE = Normalize([0.5], [0.25])
CLASSIFIERS = ["knn", "linear", "few_label", "sgd_probe", "fine_tune", "corruptions"]


def relabelled(n: int, seed: int, *labels: int) -> Images:
    """Images of these classes, the first of two twice as often."""
    made = images(n, seed)
    return Images(made.pixels, torch.tensor(labels)[made.labels % len(labels)])


def data(train: Images, val: Images, test: Images | None) -> PairData:
    splits = Splits(train, test, val, classes=["a", "b", "c", "d", "e"])
    made = PairData(lambda: splits, 10, 0.1, 0.1, 0, {}, None, False, None, NORMALIZE, 1)
    made.setup()
    return made


def network() -> Network:
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(81, 4)).requires_grad_(False)

    def encode(part):
        return encoder(NORMALIZE(part.pixels)), torch.arange(len(part))

    return Network(encode, encoder, NORMALIZE, torch.device("cpu"))


def rows() -> list[ReportRow]:
    return [ReportRow("best", "x", "h", network, 1, headline=True)]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_ceiling_stands_beside_an_accuracy(name):
    """Two thirds of the test images are of classes that training lacks."""
    one = data(relabelled(30, 1, 0, 1), relabelled(30, 2, 0, 1), relabelled(18, 3, 0, 3, 4))
    measurements = measure(rows(), {name: evaluator(name)}, one, None, 1)
    assert {m.score.settings["ceiling"] for m in measurements if m.score.split == "test"} == {0.333333}
    assert all(m.score.value <= 0.3334 for m in measurements if m.score.split == "test")
    assert all("ceiling" not in m.score.settings for m in measurements if m.score.split == "val")
    assert all(row.label.endswith(", at most 0.3333") for row in make_table(measurements).rows)


def test_where_all_classes_are_known_nothing_is_said():
    one = data(relabelled(30, 1, 0, 1), relabelled(30, 2, 0, 4), relabelled(18, 3, 0, 1, 4))
    measurements = measure(rows(), {name: evaluator(name) for name in ("knn", "linear")}, one, None, 1)
    assert not [m for m in measurements if m.score.split == "test" and "ceiling" in m.score.settings]  # 4 is in val
    assert [m.score.settings["ceiling"] for m in measurements if m.score.split == "val"] == [0.666667]
    assert all("at most" not in row.label for row in make_table(measurements).rows)
    assert not list(notes_on_test_labels(one, None))


@pytest.mark.parametrize(
    ("val", "bank", "said"),
    [
        ((0, 1, 2), None, ""),
        (
            (0, 1, 3),
            None,
            "10 of 30 validation images are of classes that training lacks: val/knn_top1 is at most 0.66",
        ),
        (
            (3, 4),
            None,
            "all 30 validation images are of classes that training lacks: kNN cannot get one right",
        ),
        ((0, 1, 2), 2, "10 of 30 validation images are of classes that evaluation.bank=2 training images lack"),
    ],
)
def test_before_training_a_line_says_what_kNN_cannot_get_right(val, bank, said):
    one = data(images(30, 1), relabelled(30, 2, *val), images(18, 3))
    assert said in "".join(notes_on_val_labels(one, bank))
    assert bool(said) == bool(list(notes_on_val_labels(one, bank)))


def test_a_line_says_which_test_images_cannot_be_got_right():
    one = data(images(30, 1), images(30, 2), relabelled(18, 3, 0, 3))
    (line,) = notes_on_test_labels(one, None)
    assert line.startswith("6 of 18 test images are of classes that training lacks, and validation: kNN and linear")


def test_one_image_a_class_is_no_class_in_common():
    """As in re-identification: what is held out of training has the only image of its class."""
    one_each = Images(images(5, 1).pixels.repeat(4, 1, 1, 1), torch.arange(20))
    splits = Splits(one_each, None, None, classes=[str(i) for i in range(20)])
    made = PairData(lambda: splits, 10, 0.1, 0.1, 0, {}, None, False, None, NORMALIZE, 1)
    made.setup()
    assert "all 2 validation images" in "".join(notes_on_val_labels(made, None))
    assert "2 of 2 test images" in "".join(notes_on_test_labels(made, None))


# ------------------------------------------------------------------------------------------------------- one class


def folder(tmp_path, table: str | None, *labels: int) -> PairData:
    """Images of these classes, with names, and a table of labels."""
    made = relabelled(40, 1, *labels)
    splits = Splits(replace(made, names=np.array([f"{i}.png" for i in range(40)])), None, None, classes=["a", "b"])
    if table is not None:
        rows = "".join(f"{i}.png,{'xy'[i % 2] if table == 'two' else 'x'}\n" for i in range(40))
        (tmp_path / "t.csv").write_text("file,kind\n" + rows, encoding="utf-8")
    path = None if table is None else str(tmp_path / "t.csv")
    one = PairData(lambda: splits, 10, 0.2, 0.2, 0, {}, path, False, None, NORMALIZE, 1)
    one.setup()
    return one


def test_one_class_is_no_label(tmp_path):
    two, one = folder(tmp_path, None, 0, 1), folder(tmp_path, None, 1)
    assert (two.labelled, two.single_class, two.splits.classes) == (True, None, ["a", "b"])
    assert (one.labelled, one.single_class, one.splits.classes) == (False, "b", [])
    assert all(part.labels is None for part in (one.splits.train, one.splits.val, one.splits.test))
    two.tasks = {"constant": ["same", "same"]}
    assert "task constant: the training samples have one label alone" in "".join(notes_on_test_labels(two, None))
    assert not list(notes_on_val_labels(two, None))
    assert "one class, b: that is no label; val/loss chooses" in "".join(notes_on_val_labels(one, None))


def test_tasks_that_cannot_be_measured_are_named():
    """One label is none, as one class is none; such a task was missing from the table without a word."""
    some, one, none = torch.tensor([0, 1, -1]), torch.tensor([1, 1, -1]), torch.tensor([-1, -1, -1])
    assert list(notes_on_tasks({"x": some}, {"x": one}, {"x": one})) == []
    assert list(notes_on_tasks({"x": one, "y": none}, {"x": some, "y": some}, {"x": some, "y": some})) == [
        "task x: the training samples have one label alone, so that it is not measured",
        "task y: the training samples have no label, so that it is not measured",
    ]
    assert list(notes_on_tasks({"x": some}, {"x": none}, {"x": one})) == [
        "task x: no validation sample has a label, so that it is not measured"
    ]


def test_a_table_gives_the_class_where_the_folder_gives_none(tmp_path):
    """The splits stay those of the folder, so that a run from before tests on the same images."""
    plain, one, none = folder(tmp_path, None, 1), folder(tmp_path, "two", 1), folder(tmp_path, "one", 1)
    assert (one.labelled, one.splits.classes, one.columns(one.splits.train)) == (True, ["x", "y"], {})
    assert one.splits.test.names.tolist() == plain.splits.test.names.tolist()
    assert (none.labelled, none.single_class) == (False, "x")


# -------------------------------------------------------------------------------------------- a probe that ends


def many(classes: int, noise: float = 0.3) -> tuple[Part, Part]:
    """Three samples of each class, and one more."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(4 * classes) % classes
    x = torch.randn(classes, 16, generator=draws)[y] + noise * torch.randn(len(y), 16, generator=draws)
    return Part(x[: 3 * classes], y[: 3 * classes], None), Part(x[3 * classes :], y[3 * classes :], None)


def test_a_fit_that_would_not_end_stops_and_says_so(monkeypatch):
    train, val = many(30, noise=2.0)
    usual = LinearProbe([1e-3]).fit(train, val, None).score(val)[0]
    assert "converged" not in usual.settings
    counted = []
    monkeypatch.setattr(FitProgress, "evaluated", lambda self: counted.append(self.begun))
    monkeypatch.setattr("repel.evaluation.logistic.WORK", 20 * 120 * 16 * 30)
    stopped = LinearProbe([1e-3]).fit(train, val, None).score(val)[0]
    assert stopped.settings["converged"] is False
    assert max(counted.count(fit) for fit in (1, 2)) <= 20 + 25 + 1  # those of the last line search, and the value
    assert stopped.value == pytest.approx(usual.value, abs=0.1)


def test_what_could_not_end_is_left_out(monkeypatch, capsys):
    train, val = many(30)
    monkeypatch.setattr("repel.evaluation.logistic.WORK", 10 * 120 * 16 * 30)
    for probe, name in ((LinearProbe([1e-3]), "linear"), (FewLabels([1.0], 1, [1e-3], 0), "few_label")):
        fitted = probe.fit(train, val, None)
        assert (fitted.score(val), fitted.chosen) == ([], ())
        assert capsys.readouterr().out.startswith(f"{name:8} left out: ")


def test_a_slow_fit_says_how_far_it_is(monkeypatch, capsys):
    train, val = many(5)
    LinearProbe([1e-3]).fit(train, val, None)
    assert not capsys.readouterr().out
    monkeypatch.setattr("repel.evaluation.fit_progress.PROGRESS_SECONDS", 0.0)
    LinearProbe([1e-3]).fit(train, val, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "linear   fit 1 of 2 (l2=0.001): 1 evaluations of the loss"
    assert lines[-1].startswith("linear   fit 2 of 2 (l2=0.001): ")
