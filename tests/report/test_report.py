"""evaluate.py: the whole table from a checkpoint alone, its files, other data, further tasks, several devices."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import BANK, SMALL, check_mistake, command, config, made_once, make_folder, run_folder, thinned
from PIL import Image

from repel.engine import checkpoint_io, run_lock, runs
from repel.engine.build import build_data
from repel.engine.configs import load_config, to_container
from repel.engine.pretrained import select_device
from repel.evaluation.knn import KNN
from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Evaluator, Fitted, Measurement, Network, ReportRow, Score
from repel.report import evaluate, report
from repel.report.page import origin_of, write_page
from repel.report.report import headline_of, make_report, read_checkpoints, report_rows, run_checkpoints
from repel.report.table import make_table

QUICK = ["evaluators=[knn,linear]"]


def measured(folder) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="session")
def whole(finished, tmp_path_factory):
    """The whole default table of a run, in its folder, by a thousand training images."""

    def make(cwd: Path) -> Path:
        result = command("evaluate.py", f"ckpt={finished}", BANK, cwd=cwd)
        assert result.returncode == 0, result.stderr
        folder = run_folder(result, cwd)
        (folder / "printed.txt").write_text(result.stdout, encoding="utf-8")
        return folder

    folder = made_once(tmp_path_factory, "evaluated", make)
    return folder, (folder / "printed.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_reproduces_the_runs_numbers(tmp_path):
    """With the evaluators of a run by default."""
    typed = [*QUICK, BANK]
    result = command("train.py", *[option for option in SMALL if "evaluators" not in option], *typed, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = run_folder(result, tmp_path)
    run = measured(folder)
    again = command("evaluate.py", f"ckpt={folder}", *typed, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    known = {n: v for n, v in run.items() if re.match("test/|baseline/|val/.*linear", n)}
    assert {"val/linear_top1", "test/linear_top1", "test/best_linear_top1", "baseline/raw_linear_top1"} <= set(known)
    found = measured(run_folder(again, tmp_path))
    assert len(known) > 20
    assert {name: found[name] for name in known} == known


@pytest.mark.slow
def test_a_checkpoint_file_alone(finished, tmp_path):
    file = tmp_path / "moved.ckpt"
    file.write_bytes((finished / "checkpoints/last.ckpt").read_bytes())
    result = command("evaluate.py", f"ckpt={file}", *QUICK, BANK, "layers=[h]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found, known = measured(run_folder(result, tmp_path)), measured(finished)
    assert found["test/knn_top1"] == known["test/knn_top1"]
    assert not [name for name in found if "last" in name or "best" in name or "z_" in name]


@pytest.mark.slow
def test_what_it_leaves(finished, whole):
    folder, printed = whole
    records = json.loads((folder / "evaluation.json").read_text())["records"]
    of_pairs = {"ranking", "items"}
    assert {r["evaluator"] for r in records} == set(config(name="evaluate").evaluators) - of_pairs
    assert {(r["row"], r["layer"]) for r in records} == {
        ("raw pixels", "pixels"), ("untrained encoder", "h"), ("last epoch", "h"), ("best on validation", "h"),
        ("last epoch", "z"),
    }  # fmt: skip
    assert {r["metric"]: r["value"] for r in records} == measured(folder)
    for r in records:
        assert {"normalize"} <= set(r["settings"])
        if r["split"] == "val":
            assert (r["fitted_on"], r["scored_on"]) == (1000, 600)
        else:
            assert r["scored_on"] == (500 if r["evaluator"] == "corruptions" else 2000)
            assert r["fitted_on"] == {"few_label": r["settings"].get("labels"), "episodes": 1000}.get(
                r["evaluator"], 1600
            )
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("<img") >= 5
    assert not re.search(r"(src|href)=.?(http|/|\w+\.)", page)
    for words in ("linear top-1, 1 % of the labels", "5-way 1-shot", "MAP@R", "season", "pixelate", "MAP"):
        assert words in page
    assert "MAP@R" in printed
    assert all(len(line) <= 120 for line in printed.splitlines())


@pytest.mark.slow
def test_raw_pixels_on_the_bundled_images_are_what_they_are(whole):
    """Known values, so that a change of the protocol does not go unnoticed."""
    found = measured(whole[0])
    assert found["baseline/raw_knn_top1"] == pytest.approx(0.7455, abs=5e-4)
    assert found["baseline/raw_knn10_top1"] == pytest.approx(0.7605, abs=5e-4)
    assert found["baseline/raw_linear_top1"] == pytest.approx(0.8150, abs=2e-3)


@pytest.mark.slow
def test_two_devices_and_a_second_time_give_the_same_numbers(finished, whole, tmp_path):
    """On two devices the second time; `whole` was measured on one."""
    few = [BANK, "evaluators=[knn,linear,retrieval]", "layers=[h]", "devices=2"]
    result = command("evaluate.py", f"ckpt={finished}", *few, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test split") == 1
    found = measured(run_folder(result, tmp_path))
    assert {"test/knn_top1", "test/linear_top1", "test/map_at_r"} <= set(found)
    assert found.items() <= measured(whole[0]).items()


@pytest.mark.slow
def test_other_data_with_columns_of_labels(finished, tmp_path):
    """Transfer to coloured images of other classes, with two further columns of labels from a table."""
    make_folder(tmp_path / "images", ["red", "green", "blue"], 40)
    files = sorted((tmp_path / "images").rglob("*.png"))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "warm", "odd"])
        for path in files:
            table.writerow([path.relative_to(tmp_path / "images"), "yes" if path.parent.name == "red" else "no", ""])
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", f"data.labels={tmp_path / 'labels.csv'}",
              "data.split_by=place"]  # fmt: skip
    result = command("evaluate.py", f"ckpt={finished}", *source, *QUICK, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = run_folder(result, tmp_path)
    records = json.loads((folder / "evaluation.json").read_text())["records"]
    assert {r["task"] for r in records} == {"class", "warm"}  # nobody is labelled in the last column
    assert {r["scored_on"] for r in records if r["split"] == "test"} == {12}
    run = runs.read_config(folder)["run"]
    assert (run["data"]["channels"], run["data"]["image_size"], run["data"]["mean"]) == (1, 28, [0.286])
    assert run["data"]["datamodule"]["read"]["channels"] == 1


@pytest.mark.slow
def test_a_table_labels_a_flat_folder(finished, tmp_path):
    make_folder(tmp_path / "images", ["."], 40)
    rows = "".join(f"{i:03d}.png,{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "labels.csv").write_text("file,side\n" + rows)
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", f"data.labels={tmp_path / 'labels.csv'}"]
    result = command("evaluate.py", f"ckpt={finished}", *source, *QUICK, "layers=[h]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "test/linear_top1" in measured(run_folder(result, tmp_path))


def test_pretrained_weights_are_a_baseline_of_their_own(tmp_path):
    """Beside the encoder without them; nothing is downloaded here: the config says so, the network is random."""
    cfg = config("encoder.width=4", "head.out_features=8", "+encoder.weights=null")
    data = build_data(cfg)
    data.setup()
    path, contents = {"checkpoint": tmp_path / "x.ckpt"}, {"checkpoint": {"state_dict": {}, "epoch": 3}}

    def names(layers):
        return [
            row.metric_name("x")
            for row in report_rows(cfg, path, contents, "checkpoint", layers, data, select_device("cpu"))
        ]

    assert names(["h", "z"]) == ["baseline/raw_x", "baseline/untrained_x", "test/x", "test/z_x"]
    two = {"last": path["checkpoint"], "best": path["checkpoint"]}  # of a run that was never validated
    both = dict.fromkeys(two, contents["checkpoint"])
    labels = [row.label for row in report_rows(cfg, two, both, "last", ["h"], data, select_device("cpu"))]
    assert labels[2:] == ["last epoch", "not validated: last epoch"]
    cfg.encoder.weights = "DEFAULT"
    assert names(["h"]) == ["baseline/raw_x", "baseline/untrained_x", "baseline/pretrained_x", "test/x"]


def test_layers_are_what_the_network_computes(finished):
    cfg = load_config(runs.read_config(finished))
    data = build_data(cfg)
    data.setup()
    paths = {"best": run_checkpoints(finished)["best"]}
    contents = read_checkpoints(paths)
    rows = {r.layer: r for r in report_rows(cfg, paths, contents, "best", ["h", "z"], data, select_device("cpu"))[2:]}
    few = data.splits.test[torch.arange(5)]
    h, z = (rows[layer].make_network() for layer in ("h", "z"))
    assert isinstance(h, Network)
    from repel.engine.build import build_module

    module = build_module(cfg).eval()
    module.load_state_dict(contents["best"]["state_dict"])
    with torch.no_grad():
        expected = module.encoder(data.normalize(few.pixels))
        torch.testing.assert_close(h.encode(few)[0], expected)
        torch.testing.assert_close(z.encode(few)[0], module.head(expected))


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        ("last", ["test/x", "test/best_x", "test/z_x"]),
        ("best", ["test/last_x", "test/x", "test/z_x"]),
        (None, ["test/last_x", "test/x", "test/z_x"]),  # a run from before evaluation.checkpoint
    ],
)
def test_the_headline_is_the_checkpoint_that_the_run_names(finished, checkpoint, names):
    cfg = load_config(runs.read_config(finished))
    assert cfg.evaluation.checkpoint == "last"  # by default
    data = build_data(cfg)
    data.setup()
    contents = {"last": {"state_dict": {}, "epoch": 4}, "best": {"state_dict": {}, "epoch": 1}}
    headline = headline_of(contents, checkpoint)
    rows = report_rows(cfg, {}, contents, headline, ["h", "z"], data, select_device("cpu"))[2:]
    assert [row.metric_name("x") for row in rows] == names
    assert [row.epoch for row in rows if row.headline] == [5 if headline == "last" else 2] * 2
    assert headline_of({"checkpoint": None}, checkpoint) == "checkpoint"


def test_a_last_epoch_that_is_the_best_is_measured_once(finished):
    cfg = load_config(runs.read_config(finished))
    data = build_data(cfg)
    data.setup()

    def shared(last: dict, best: dict) -> list[str | None]:
        contents = {name: {"state_dict": state, "epoch": 1} for name, state in (("last", last), ("best", best))}
        return [row.same for row in report_rows(cfg, {}, contents, "last", ["h", "z"], data, select_device("cpu"))]

    one, equal, other = ({"a": torch.zeros(2), "b": torch.tensor([value])} for value in (1, 1, 2))
    assert shared(one, equal) == shared(one, one) == [None, None, "checkpoints", "checkpoints", None]
    assert shared(one, other) == [None] * 5


def test_each_checkpoint_is_read_once(finished, tmp_path, monkeypatch):
    """At the end of a run, and by evaluate.py; best.ckpt may be missing."""
    read, load = [], checkpoint_io.load
    monkeypatch.setattr(checkpoint_io, "load", lambda path: read.append(path.name) or load(path))
    monkeypatch.setattr(evaluate, "make_report", lambda *args: report.Report([], [], None, []))
    cfg, both = load_config(runs.read_config(finished)), tmp_path / "both"
    shutil.copytree(finished, both)  # whose report is written anew
    evaluate.finish(cfg, both, None)
    assert sorted(read) == ["best.ckpt", "last.ckpt"]
    read.clear()
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(finished / "checkpoints/last.ckpt", folder / "checkpoints")
    shutil.copy(finished / "config.yaml", folder)
    evaluate.finish(cfg, folder, None)
    assert read == ["last.ckpt"]
    read.clear()
    evaluate.evaluate(config(f"ckpt={finished}", name="evaluate"), tmp_path / "evaluation")
    assert sorted(read) == ["best.ckpt", "last.ckpt"]


def test_an_accelerator_that_is_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto").type == "cpu"
    with pytest.raises(ValueError, match=r"accelerator=gpu.*use cpu or auto"):
        select_device("gpu")


# ------------------------------------------------------------------------------------------------------ table and page


def measurement(source: str, value: float, label: str = "a < b", **score) -> Measurement:
    row = ReportRow(source, source, "h", lambda: None, None if source == "raw" else 2, source == "best")
    return Measurement(row, "class", "e", Score("x", label, value, {"std": 0.005}, **score), 1, 10, 5)


def test_a_table_holds_numbers_and_marks_the_runs_column():
    measurements = [
        *(measurement(source, value) for source, value in (("raw", 0.25), ("last", 0.75), ("best", 0.5))),
        *(
            measurement(source, value, "error", higher_is_better=False)
            for source, value in (("raw", math.nan), ("last", 3.0), ("best", -1.0))
        ),
        measurement("best", 7.0, "rank", higher_is_better=None),
        measurement("best", 0.875, "chosen", split="val"),
    ]
    table = make_table(measurements)
    assert [" ".join(column.split()) for column in table.columns] == ["raw, h", "last, epoch 2, h", "best, epoch 2, h"]
    values = {row.label: [score and score.value for score in row.scores] for row in table.rows}
    error = "error, lower is better"
    assert values == {"a < b": [0.25, 0.75, 0.5], error: [math.nan, 3.0, -1.0], "rank": [None, None, 7.0]}
    assert table.headline == 2
    assert [row.label for row in make_table(measurements, "val").rows] == ["chosen"]
    assert [m.metric for m in measurements[:3]] == ["baseline/raw_x", "test/last_x", "test/x"]


def test_a_page_escapes_marks_and_holds_its_figures(tmp_path):
    measurements = [
        measurement("raw", 0.25),
        measurement("best", 0.5),
        measurement("best", 7.0, "rank", higher_is_better=None),
    ]
    plot = Plot("p", "a <caption>", Image.new("RGB", (2, 2)))
    runs.create(tmp_path, {"seed": 1, "name": "<b>"}, ["loss.x=[1,2]", "name='<b>'"])
    run_lock.unlock(tmp_path)
    write_page(tmp_path / "page.html", "<title>", measurements, [plot], [origin_of(tmp_path, "What was run")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;title&gt;" in page
    assert "a &lt; b" in page
    assert "a &lt;caption&gt;" in page
    assert page.count("<caption>") == 0
    assert "<b>" not in page
    assert "name: &lt;b&gt;" in page  # the config
    assert "&#39;loss.x=[1,2]&#39;" in page  # the command, quoted for a shell
    assert f"commit {runs.git_commit()}" in page
    # the run's column, lowest or highest; no number by its value
    assert re.findall(r'<td class="headline">([^<]*)</td>', page) == ["0.5000 ±0.005", "7.0000 ±0.005"]
    assert 'src="data:image/png;base64,iVBOR' in page
    assert "std=0.005" in page


def test_without_evaluators_a_line_stands_for_the_table(capsys):
    job = {"evaluators": {}, "layers": ["h"]}
    assert make_report(config("evaluators=[]"), job, {}, {}, select_device("cpu"), None).metrics == {}
    assert capsys.readouterr().out == (
        "no evaluators: nothing is measured; 'evaluators=[knn,linear]' measures, also by evaluate.py later\n"
    )


def test_unlabelled_data_is_said_to_have_nothing_to_measure(tmp_path, capsys):
    make_folder(tmp_path / "images", ["."], 40)
    cfg = config("data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12")
    job = to_container(cfg) | {"layers": ["h"]}
    data = build_data(cfg)
    data.setup()
    assert make_report(cfg, job, {}, {}, select_device("cpu"), data).metrics == {}
    assert "no labels" in capsys.readouterr().out


def test_without_labels_only_what_needs_none_is_measured(tmp_path, monkeypatch, capsys):
    class Count(Evaluator):
        needs_labels = False

        def fit(self, train, val, network):
            assert len(train.x) == len(val.y) == 0
            return Fitted(lambda test: [Score("count", "count", float(len(test.samples)), {})])

    make_folder(tmp_path / "images", ["."], 40)
    cfg = config("data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12")
    row = ReportRow("last", "x", "h", lambda: Network(lambda samples: None, None, lambda x: x, torch.device("cpu")), 1,
                    True)  # fmt: skip
    monkeypatch.setattr(report, "build_evaluators", lambda nodes: {"knn": KNN(5, [], 0.1), "count": Count()})
    monkeypatch.setattr(report, "report_rows", lambda *_: [row])
    job = to_container(cfg) | {"layers": ["h"]}
    data = build_data(cfg)
    data.setup()
    found = make_report(cfg, job, {}, {"last": {}}, select_device("cpu"), data)
    assert found.metrics == {"test/count": len(data.splits.test)}
    assert found.validation is None
    assert [make() for _, make in found.drawings] == [None]
    printed = capsys.readouterr().out
    assert "no labels" in printed
    assert "count" in printed
    monkeypatch.setattr(report, "build_evaluators", lambda nodes: {"count": Count()})
    make_report(cfg, job, {}, {"last": {}}, select_device("cpu"), data)
    assert "no labels" not in capsys.readouterr().out  # nothing is left out


MISTAKES = {
    "evaluation.k=abc": ["evaluation.k", "whole number"],
    "evaluation.k=2.5": ["evaluation.k"],
    "accelerator=tpu": ["accelerator", "cpu"],
    "ckpt=nowhere": ["nowhere"],
    "devices=0": ["devices"],
    "evaluation.checkpoint=first": ["evaluation.checkpoint", "last or best"],
    "layers=[h,y]": ["layers", "'y'"],
    "evaluation.map=umap": ["evaluation.map", "tsne"],
    "evaluators=[knn,linaer]": ["linaer", "linear"],
    "evaluators.knn.others=[0]": ["k >= 1"],
    "evaluators.linear.l2=[]": ["evaluators.linear.l2"],
    "data=cifar11": ["data=cifar11", "did you mean cifar10"],
    "data_root=x": ["data_root"],
}


@pytest.mark.parametrize("typed", thinned(MISTAKES, 3))
def test_mistakes(finished, tmp_path, typed):
    ckpt = [] if "ckpt" in typed else [f"ckpt={finished}"]
    check_mistake(command("evaluate.py", typed, *ckpt, cwd=tmp_path), MISTAKES[typed])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
