"""The report of a sweep: its numbers by hand, tables, curves, mistakes."""

import json
import math
import shutil
import sys
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from sweep_runs import make_run

from repel.cli import compare, paired, sweep_plots
from repel.cli import sweep_report as script
from repel.cli.sweeps import identity, varied_keys
from repel.engine import run_lock, runs

VALUES = {  # (loss, negatives) -> accuracy of seeds 1, 2, 3
    ("ntxent", "uniform"): (0.80, 0.82, 0.84),
    ("ntxent", "hcl"): (0.83, 0.83, 0.89),
    ("decoupled", "uniform"): (0.70, 0.60, 0.80),
}


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Three cells of three seeds; one run fails, one was interrupted, one is torn, two are missing."""
    number = 0
    for (loss, negatives), values in VALUES.items():
        for seed, value in enumerate(values, 1):
            overrides = [f"negatives={negatives}", f"loss={loss}", "trainer.max_epochs=3", f"seed={seed}"]
            metrics = {"test/knn_top1": value, "baseline/raw_knn_top1": 0.5, "val/knn_top1": 0.1, "val/loss": 2.0}
            make_run(tmp_path / str(number), overrides, metrics, curve=[value / 4, value / 2, value])
            number += 1
    common = ["loss=decoupled", "negatives=hcl", "trainer.max_epochs=3"]
    make_run(tmp_path / "9", [*common, "seed=1"], None, outcome=None)
    (make_run(tmp_path / "10", [*common, "seed=2"], None, outcome=None) / "error.txt").write_text("Traceback")
    torn = make_run(tmp_path / "11", [*common, "seed=3"], None)
    (torn / "environment.json").write_text('{"overrides": [')
    task = ["loss=ntxent,decoupled", "negatives=uniform,hcl,tilt", "trainer.max_epochs=3", "seed=1,2"]
    asked = {"hydra": {"sweeper": {"params": None}, "overrides": {"task": task}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(asked))
    return tmp_path


def test_numbers_of_the_report_equal_those_by_hand(sweep):
    script.report(sweep, ["test/knn_top1"], "negatives=uniform loss=ntxent")
    made = json.loads((sweep / "report.json").read_text())
    rows = {row["name"]: row["test/knn_top1"] for row in made["rows"]}
    reference, hcl = rows["negatives=uniform loss=ntxent"], rows["negatives=hcl loss=ntxent"]
    assert (reference["n"], reference["mean"], reference["std"]) == (3, pytest.approx(0.82), pytest.approx(0.02))
    assert hcl["mean"] == pytest.approx(0.85)
    assert hcl["std"] == pytest.approx(math.sqrt((0.02**2 + 0.02**2 + 0.04**2) / 2))
    # differences 0.03, 0.01, 0.05: mean 0.03, deviation 0.02, t(0.975, 2) = 4.302653
    assert hcl["difference"]["seeds"] == [1, 2, 3]
    assert hcl["difference"]["mean"] == pytest.approx(0.03)
    assert hcl["difference"]["half"] == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
    assert rows["negatives=hcl loss=decoupled"]["n"] == 0
    assert made["same"] == {"trainer.max_epochs": "3"}


def test_the_report_as_markdown(sweep):
    text = script.report(sweep, ["test/knn_top1"], "negatives=uniform loss=ntxent")
    lines = text.splitlines()
    assert lines[0] == "16 runs: 9 finished, 1 interrupted, 1 failed, 1 unreadable, 4 missing"
    assert (
        "| negatives=hcl loss=ntxent | 3 | 0.5000 ± 0.0000 | 0.8500 ± 0.0346 | +0.0300 [-0.0197, +0.0797], n = 3 |"
        in lines
    )
    assert "- interrupted: 9 loss=decoupled negatives=hcl seed=1" in lines
    assert "- failed: 10 loss=decoupled negatives=hcl seed=2" in lines
    assert {line for line in lines if line.startswith("- missing")} == {
        f"- missing: loss={loss} negatives=tilt seed={seed}" for loss in ("ntxent", "decoupled") for seed in (1, 2)
    }
    pivot = lines.index(r"| test/knn_top1: negatives \ loss | ntxent | decoupled |")
    assert lines[pivot + 2 :] == ["| uniform | 0.8200 ± 0.0200 | 0.7000 ± 0.1000 |", "| hcl | 0.8500 ± 0.0346 | - |"]
    assert (sweep / "report.md").read_text() == text
    for name in ("bars.png", "curves.png"):
        assert (sweep / name).read_bytes().startswith(b"\x89PNG")


def test_an_option_that_was_left_out_is_named_as_it_is_typed(tmp_path):
    """~KEY=null would be another command: Hydra takes it for KEY where it is null."""
    for number, more in enumerate([["~optimizer.weight_decay"], [], ["optimizer.weight_decay=null"]]):
        make_run(tmp_path / str(number), ["~callbacks.knn", *more, "seed=1"], {"test/knn_top1": 0.5})
    lines = script.report(tmp_path, ["test/knn_top1"], "~optimizer.weight_decay").splitlines()
    assert lines[1] == "in all of them: `~callbacks.knn`"
    rows = [line.split(" | ")[0] for line in lines if " | 1 | " in line]
    assert rows == ["| ~optimizer.weight_decay", "| (default)", "| optimizer.weight_decay=null"]


def test_runs_of_other_data_are_named(tmp_path):
    """As a sweep that was resumed after files were added: its rows would mix two sets."""
    for number, (overrides, data) in enumerate([
        (["seed=1"], "a"), (["seed=2"], "b"), (["seed=2", "loss=ntxent"], "a"), (["seed=3"], None),
        (["seed=1", "data.split_seed=1"], "c"), (["seed=2", "data.split_seed=1"], "c"),
    ]):  # fmt: skip
        runs.update_environment(make_run(tmp_path / str(number), overrides, {"test/knn_top1": 0.5}), data=data)
    lines = script.report(tmp_path, ["test/knn_top1"], None).splitlines()
    assert [line for line in lines if "other data" in line] == [
        "- other data: with the same options, the samples of 1 are not those of earlier runs"
    ]


def test_a_sweep_that_cannot_be_written_is_reported_all_the_same(sweep, capsys):
    (sweep / "report.md").mkdir()  # as on a read-only file system, an OSError
    assert "| negatives=hcl loss=ntxent | 3 |" in script.report(sweep, ["test/knn_top1"], None)
    assert capsys.readouterr().err == f"note: {sweep} cannot be written (Is a directory): the report is only printed\n"


def test_curves_are_means_over_the_epochs_that_all_seeds_have(sweep):
    cells, _ = compare.cells(compare.read(sweep))
    (sweep / "1/metrics.csv").write_text(
        "epoch,step,val/knn_top1,train/loss\n0,0,0.3,1\n1,9,0.5,1\n2,"
    )  # being written
    cell = next(c for c in cells if c.name == "negatives=uniform loss=ntxent")
    assert compare.curve(cell, "val/knn_top1") == {1: [0.2, 0.3, 0.21], 2: [0.4, 0.5, 0.42]}
    assert compare.curve(cell, "val/linear_top1") == {}


def test_any_folder_of_runs_and_any_metric(tmp_path, capsys, monkeypatch):
    """runs/train: another seed is the default's, of two equal runs the later counts, other commands' are left aside."""
    make_run(tmp_path / "2026-01-01_default", [], {"val/loss": 9.0, "test/knn_top1": 0.1})
    make_run(tmp_path / "2026-01-02_default", ["name=again"], {"val/loss": 3.0, "test/knn_top1": 0.2})
    make_run(tmp_path / "2026-01-03_default", ["seed=4"], {"val/loss": 5.0, "test/knn_top1": 0.3})
    (make_run(tmp_path / "evaluated", [], {"test/knn_top1": 0.9}) / "config.yaml").write_text("ckpt: x")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "metric=val/loss"])
    assert script.main() == 0
    assert "| (default) | 2 | 4.0000 ± 1.4142 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "words"),
    [(["metric=test/knn"], ["metric=test/knn", "test/knn_top1, val/knn_top1, val/loss"]),
     (["against=hcl"], ["fits no row"]),
     (["against=negatives=hcl"], ["fits 2 rows", "negatives=hcl loss=ntxent"]), (["metrics=x"], ["usage"])],
)  # fmt: skip
def test_mistakes_of_the_report_are_one_line(sweep, capsys, monkeypatch, typed, words):
    monkeypatch.setattr(sys, "argv", ["report.py", str(sweep), *typed])
    assert script.main() == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert all(word in line for word in words)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf], ids=str)
def test_a_number_that_is_not_finite_is_counted_and_averaged_with_nothing(sweep, wrong):
    """In a metric, its baseline and its curve; as a version before wrote it, with NaN in metrics.json, and as now."""
    metrics = {"test/knn_top1": wrong, "baseline/raw_knn_top1": wrong, "val/knn_top1": wrong, "val/loss": wrong}
    (sweep / "0/metrics.json").write_text(json.dumps(metrics))
    runs.add_metrics(sweep / "3", metrics)
    for name in "03":
        (sweep / name / "metrics.csv").write_text(f"epoch,step,val/knn_top1\n0,0,{wrong}\n1,9,0.5\n2,18,0.5\n")
    text = script.report(sweep, ["test/knn_top1"], "negatives=uniform loss=ntxent")
    row = "| negatives=hcl loss=ntxent | 3 | 1 of 3 not finite | 1 of 3 not finite | not finite |"
    assert row in text.splitlines()
    assert "| hcl | 1 of 3 not finite | - |" in text.splitlines()
    strict = json.loads((sweep / "report.json").read_text(), parse_constant=pytest.fail)
    found = next(r["test/knn_top1"] for r in strict["rows"] if r["name"] == "negatives=hcl loss=ntxent")
    assert (found["n"], found["mean"], found["std"], found["by_seed"]) == (
        3,
        None,
        None,
        {"1": None, "2": 0.83, "3": 0.89},
    )


@pytest.mark.parametrize("spellings", [
    ["optimizer.lr=1e-3", "optimizer.lr=0.001", "+optimizer.lr=0.0010"],
    ["loss.learn_temperature=true", "loss.learn_temperature=True", "loss.learn_temperature=TRUE"],
    ["loss.temperature=1", "loss.temperature=1.0", "loss.temperature=1e0"],
    ["data.bank=null", "data.bank=Null", "data.bank=NULL"],
    ["data.mean=[0.5,1]", "data.mean=[ 0.50, 1.0]", "data.mean=[5e-1,1]"],
    ["views={a:1,b:true}", "views={b:True,a:1.0}", "views={b: true, a: 1}"],
    ["loss='ntxent'", "loss=ntxent", 'loss="ntxent"'],
], ids=lambda s: s[0])  # fmt: skip
def test_equal_values_are_one_row(tmp_path, spellings):
    for seed, override in enumerate(spellings):
        make_run(tmp_path / str(seed), [override, f"seed={seed}"], {"test/knn_top1": 0.5})
    make_run(tmp_path / "9", [], {"test/knn_top1": 0.5})
    (cell, other), _ = compare.cells(compare.read(tmp_path))
    assert (sorted(cell.runs), other.name) == ([0, 1, 2], "(default)")
    assert all(script.row_named(override, [cell, other]) is cell for override in spellings if " " not in override)
    assert len({identity([override.lstrip("+")]) for override in spellings}) == 1


def test_unequal_values_are_rows_of_their_own(tmp_path):
    for number, value in enumerate(("1", "true", "'1'", "'true'", "[1]", "null", "'null'", "1.5", "one")):
        make_run(tmp_path / str(number), [f"loss.x={value}", "seed=1"], {"test/knn_top1": 0.5})
    assert len(compare.cells(compare.read(tmp_path))[0]) == 9


def test_a_report_before_anything_has_finished(tmp_path):
    with pytest.raises(ValueError, match="no runs"):
        script.report(tmp_path, ["test/knn_top1"], None)
    claimed = tmp_path / "0"
    runs.create(claimed, {"seed": 1, "trainer": {}}, ["seed=1"])
    assert script.report(tmp_path, ["test/knn_top1"], None).startswith("1 runs: 1 running")
    run_lock.unlock(claimed)
    assert script.report(tmp_path, ["test/knn_top1"], None).startswith("1 runs: 1 interrupted")


@pytest.mark.parametrize(
    ("freedom", "value"),
    [(1, 12.70620474), (2, 4.30265273), (3, 3.18244631), (9, 2.26215716), (29, 2.04522964), (100, 1.98397152)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, value):
    assert paired.t_quantile(freedom) == pytest.approx(value, rel=1e-8)


# ------------------------------------------------------------------------------------------------------------- figures


def make_sweep(folder: Path, rows: int, data: tuple[str, ...] = ("fashion_mini",)) -> list[compare.Cell]:
    """Rows with long names, in turn on these data, whose values and baselines lie apart."""
    for number in range(rows):
        name, wide = data[number % len(data)], "{loss.temperature:[0.5,0.1],negatives.beta:[0.0,2.0]}"
        value = 0.3 + 0.5 * data.index(name) + 0.01 * (number % 7)
        metrics = {"test/knn_top1": value, "test/linear_top1": value, "baseline/raw_knn_top1": value - 0.1,
                   "baseline/raw_season_knn_top1": 0.95, "test/season_knn_top1": 0.9}  # fmt: skip
        overrides = [f"loss.x={number}", f"anneal.values={wide}" if number else "loss.y=2", "seed=1"]
        run = make_run(folder / str(number), overrides, metrics, curve=[value / 2, value])
        read = {"_target_": f"repel.images.datasets.{name}"}
        config = {"seed": 1, "trainer": {}, "data": {"datamodule": {"read": read}, "root": "/" + "long/" * 20}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    return compare.cells(compare.read(folder))[0]


def overlap(boxes) -> bool:
    return any(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1 for a, b in combinations(boxes, 2))


def drawn(text: Text, figure: Figure) -> bool:
    """Not the numbers of an axis beyond its ends."""
    beyond = {t.label1 for panel in figure.axes for axis in (panel.xaxis, panel.yaxis) for t in axis.get_major_ticks()
              if not min(axis.get_view_interval()) <= t.get_loc() <= max(axis.get_view_interval())}  # fmt: skip
    return text.get_visible() and bool(text.get_text().strip()) and text not in beyond


@pytest.mark.parametrize(("rows", "data"), [(12, ("a",)), (12, ("a", "b")), (1, ("a",)),
                                            pytest.param(40, ("a",), marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.parametrize("kind", ["bars", "curves"])
def test_figures_are_whole(tmp_path, rows, data, kind):
    """No text is cut, none lies on another, legends lie outside of the panels; a panel for each set of data."""
    cells = make_sweep(tmp_path, rows, data)
    known = compare.known_metrics(compare.read(tmp_path))
    draw = {"bars": lambda: sweep_plots.bars_figure(cells, ["test/knn_top1", "test/linear_top1"], known),
            "curves": lambda: sweep_plots.curves_figure(cells, "test/knn_top1")}  # fmt: skip
    figure = draw[kind]()
    figure.draw_without_rendering()
    boxes = {text: text.get_window_extent() for text in figure.findobj(Text) if drawn(text, figure)}
    frame = figure.bbox.padded(1)
    cut = [
        text.get_text()
        for text, box in boxes.items()
        if not (box.max <= frame.max).all() & (box.min >= frame.min).all()
    ]
    assert cut == []
    assert not overlap(boxes.values())
    legends = [made.get_window_extent() for made in figure.findobj(Legend)]
    panels = [panel.get_window_extent() for panel in figure.axes]
    assert not any(overlap([made, panel]) for made in legends for panel in panels)
    assert min(panel.width for panel in panels) > 250
    titles = [panel.get_title(loc="left").split(" in ")[0] for panel in figure.axes]
    columns = 2 if kind == "bars" else 1
    assert titles[::columns] == (list(data) if len(data) > 1 else [""])


def test_bars_have_their_rows_own_baselines(tmp_path):
    """On two sets of data; not those of another task."""
    cells = make_sweep(tmp_path, 4, ("a", "b"))
    figure = sweep_plots.bars_figure(cells, ["test/knn_top1"], compare.known_metrics(compare.read(tmp_path)))
    strokes = [[line.get_xdata()[0] for line in panel.lines if len(line.get_xdata()) == 2] for panel in figure.axes]
    assert strokes == [[pytest.approx(0.2), pytest.approx(0.22)], [pytest.approx(0.71), pytest.approx(0.73)]]
    (made,) = figure.legends
    assert [text.get_text() for text in made.get_texts()] == ["baseline/raw_knn_top1"]


def test_the_baselines_of_a_metric_are_of_its_split_and_task():
    known = [
        "baseline/raw_knn_top1", "baseline/item_knn_top1", "baseline/raw_season_knn_top1", "baseline/raw_knn10_top1",
        "test/knn_top1", "test/season_knn_top1", "test/last_knn_top1", "val/linear_top1", "val/knn_top1",
        "val/baseline_raw_linear_top1", "val/baseline_raw_season_linear_top1", "val/season_linear_top1",
    ]  # fmt: skip
    found = {name: compare.baselines_of(name, known) for name in known}
    ours = ["baseline/raw_knn_top1", "baseline/item_knn_top1"]
    assert found["test/knn_top1"] == found["test/last_knn_top1"] == ours
    assert found["test/season_knn_top1"] == ["baseline/raw_season_knn_top1"]
    assert found["val/linear_top1"] == ["val/baseline_raw_linear_top1"]
    assert found["val/knn_top1"] == found["baseline/raw_knn_top1"] == []


def test_a_run_says_what_its_sweep_varies(sweep):
    assert varied_keys(sweep / "3") == ["loss", "negatives", "seed"]
    assert varied_keys(sweep / "3/deeper") == []


def test_a_line_says_where_the_checkpoint_of_the_headline_differs(tmp_path):
    """Runs from before evaluation.checkpoint measured the best one."""
    for number, checkpoint in enumerate(("last", "last", None)):
        folder = make_run(tmp_path / str(number), [f"seed={number}"], {"test/knn_top1": 0.5})
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        if checkpoint is not None:
            config["evaluation"] = {"checkpoint": checkpoint}
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "is not the same in all runs: last in 2, best in 1" in script.report(tmp_path, ["test/knn_top1"], None)
    shutil.rmtree(tmp_path / "2")
    assert "is not the same" not in script.report(tmp_path, ["test/knn_top1"], None)
