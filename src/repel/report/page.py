"""report.html: one self-contained page."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Measurement
from repel.report.plots import png
from repel.report.table import format_score, make_table

__all__ = ["write_page"]

COLUMNS = ("metric", "split", "value", "layer", "epoch", "seed", "fitted_on", "scored_on")  # of the settings' table


def write_page(path: Path, title: str, measurements: Sequence[Measurement], plots: Sequence[Plot]) -> None:
    """The table, the figures and the settings of every number, all inside the file."""
    environment = Environment(
        loader=PackageLoader("repel.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": format_score, "settings": _settings, "png": _png}
    page = environment.get_template("page.html.jinja").render(
        title=title,
        table=make_table(measurements),
        plots=plots,
        columns=COLUMNS,
        records=[m.record() for m in measurements],
    )
    path.write_text(page, encoding="utf-8")


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items() if key != "by_strength")


def _png(plot: Plot) -> str:
    return base64.b64encode(png(plot.picture)).decode()
