"""report.html: one self-contained page."""

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from repel.engine import runs
from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Measurement
from repel.evaluation.text_table import TextTable
from repel.report.plots import png
from repel.report.table import format_score, make_table

__all__ = ["Origin", "origin_of", "write_page"]

COLUMNS = ("metric", "split", "value", "layer", "epoch", "seed", "fitted_on", "scored_on")  # of the settings' table


class Origin(NamedTuple):
    """What was run, as a page says it."""

    heading: str
    command: str
    commit: str | None
    device: str | None
    config: str


def origin_of(folder: Path, heading: str) -> Origin:
    """Of the command that made a folder, by its environment.json and config.yaml."""
    environment = runs.read_environment(folder)
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    command = shlex.join(environment.get("command", ["unknown"]))
    return Origin(heading, command, environment.get("git_commit"), environment.get("device"), config)


def write_page(
    path: Path, title: str, measurements: Sequence[Measurement], plots: Sequence[Plot], origins: Sequence[Origin] = ()
) -> None:
    """What was run, the table, the figures and the settings of every number, all inside the file."""
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
        origins=origins,
        table=make_table(measurements),
        plots=plots,
        columns=COLUMNS,
        records=[m.record() for m in measurements],
    )
    path.write_text(page, encoding="utf-8")


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items() if key != "by_strength")


def _png(plot: Plot) -> str:
    assert not isinstance(plot.picture, TextTable), "which the page shows as a table"
    return base64.b64encode(png(plot.picture)).decode()
