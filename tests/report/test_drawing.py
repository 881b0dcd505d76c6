"""Numbers before pictures, and names as users wrote them."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from repel.base import drawing
from repel.cli import sweep_plots
from repel.cli.compare import Cell
from repel.evaluation.class_names import drawn_name, numbered_names
from repel.evaluation.measurement import Measurement, ReportRow, Score
from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Part
from repel.images.figures import neighbor_sheet
from repel.images.memory import Images
from repel.report import plots
from repel.report.evaluate import write_report
from repel.report.report import Report

NAMES = ["$_&_ ^$", "$x^2$", "_private", "数据", "née", "two\nlines", "\\alpha {", "Щука", ""]


@pytest.fixture
def only_dejavu(monkeypatch):
    """A machine with matplotlib's own font alone."""
    first = next(drawing._files())
    monkeypatch.setattr(drawing, "_files", lambda: iter([first]))
    drawing.font_file.cache_clear()
    yield
    drawing.font_file.cache_clear()


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def written(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_map_has_every_name_as_it_was_written(only_dejavu, no_warnings):
    y = torch.arange(36) % len(NAMES)
    figure = plots.map_figure(torch.randn(36, 4), y, NAMES)
    assert written(figure.axes[0]) == ["$_&_ ^$", "$x^2$", "_private", "3", "née", "two lines", "\\alpha {", "Щука", ""]
    assert plots.png(figure)[:4] == b"\x89PNG"


def test_usual_names_are_drawn_as_before():
    """The same pixels as matplotlib's own legend."""
    figure = Figure()
    axes = figure.subplots()
    handles = [axes.plot([0, 1], [n, 1], label=name)[0] for n, name in enumerate(["cat", "dog"])]
    drawing.legend(axes, handles, ["cat", "dog"], fontsize=8)
    ours = plots.png(figure)
    axes.legend(fontsize=8)
    assert plots.png(figure) == ours


def test_names_without_a_font_are_in_the_caption(only_dejavu):
    assert [drawn_name(NAMES, n) for n in (3, 4, 99)] == ["3", "née", "99"]
    assert numbered_names(NAMES) == " (3: 数据)"
    assert numbered_names(["a", "b"]) == ""
    assert numbered_names(["\udcff"] * 30).encode().endswith(b"19: \\udcff, ...)")


def test_matplotlibs_font_of_boxes_is_no_font_for_a_name(monkeypatch):
    from matplotlib import font_manager, get_data_path

    bundled = [font for font in font_manager.fontManager.ttflist if font.fname.startswith(get_data_path())]
    elsewhere = font_manager.FontEntry(fname="/fonts/LastResort.otf", name="LastResort")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*bundled, elsewhere])
    assert [Path(file).name for file in drawing._files()] == ["DejaVuSans.ttf"]


def test_an_installed_font_is_found_by_its_letters(monkeypatch):
    """The first that has them all."""
    fonts = {"a": set("ab"), "b": set("abc数"), "c": set("abc数")}
    monkeypatch.setattr(drawing, "_files", lambda: iter(fonts))
    monkeypatch.setattr(drawing, "_known", lambda file, letters: {n for n in letters if chr(n) in fonts[file]})
    drawing.font_file.cache_clear()
    found = [drawing.font_file(text) for text in ("a b", "c数", "数据")]
    drawing.font_file.cache_clear()
    assert found == ["a", "b", None]


def test_sheets_show_letters_beyond_ascii(only_dejavu):
    """Pillow's own font would draw the same box for both."""
    y = torch.zeros(3, dtype=torch.long)
    part = Part(torch.eye(3), y, Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), y))
    sheets = [neighbor_sheet(part, part, [name]).tobytes() for name in ("ЩЩ", "ЖЖ", "数", "据")]
    assert sheets[0] != sheets[1]
    assert sheets[2] == sheets[3]  # the number


def test_numbers_are_on_disk_before_anything_is_drawn(tmp_path, capsys):
    """A figure that fails, at the end as matplotlib does, costs a line."""
    row = ReportRow("best", "best on validation", "h", lambda: None, 1, True)
    measurement = Measurement(row, "class", "knn", Score("knn_top1", "kNN top-1", 0.5, {}), 1, 10, 10)

    def broken() -> Plot:
        assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == {"test/knn_top1": 0.5}
        assert len(json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["records"]) == 1
        figure = Figure()
        figure.text(0.5, 0.5, "$_&_ ^$")
        return Plot("broken", "Broken", figure)

    drawings = [
        ("broken", broken),
        ("none", lambda: None),
        ("good", lambda: Plot("good", "Good", Image.new("L", (2, 2)))),
    ]
    (tmp_path / "metrics.csv").write_text("step,train/loss\nx,y\n", encoding="utf-8")
    drawn = write_report(tmp_path, "a run", Report([measurement], drawings, None, []), tmp_path / "metrics.csv")
    assert [plot.name for plot in drawn] == ["good"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<img") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" could not be made: ")[0] for line in lines] == [
        "note     the figure training",
        "note     the figure broken",
    ]
    assert "ParseSyntaxException" in lines[1] or "ValueError" in lines[1]


def test_a_sweeps_figures_have_rows_as_they_were_written(tmp_path, no_warnings, monkeypatch):
    names = ["name=$_&_ ^$", "_x"]
    figure, panel = pyplot.subplots()
    sweep_plots.draw_bars_of(panel, [Cell(name, {}) for name in names], "test/knn_top1", [])
    plots.png(figure)
    pyplot.close(figure)
    assert [label.get_text() for label in panel.get_yticklabels()] == names
    monkeypatch.setattr("repel.cli.compare.curve", lambda cell, column: {0: [0.5], 1: [0.7]})
    legends = []
    monkeypatch.setattr(sweep_plots, "legend", lambda axes, *given, **options: legends.append(given[1]))
    sweep_plots.draw_curves([Cell(name, {}) for name in names], "test/knn_top1", tmp_path / "curves.png")
    assert legends == [names]
