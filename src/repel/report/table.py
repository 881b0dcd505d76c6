"""The table of a report: scores by metric and row of features. Numbers become text here, at the very end."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table as RichTable

from repel.base.terminal import table_console
from repel.evaluation.protocol import Measurement, ReportRow, Score

__all__ = ["Table", "TableRow", "format_score", "make_table", "print_table"]


class TableRow(NamedTuple):
    """One metric: its label, and a score for each column, or None where it was not measured."""

    label: str
    scores: list[Score | None]


class Table(NamedTuple):
    """columns: their heads, of several lines each. rows: one a metric. headline: the run's own column, or None."""

    columns: list[str]
    rows: list[TableRow]
    headline: int | None = None


def make_table(measurements: Sequence[Measurement], split: str = "test") -> Table:
    """The scores of a split, a row a metric, a column for each row of features.

    A metric's label says where it cannot reach 1, because test samples are of classes that nothing was fitted on, and
    where lower is better. No number is marked: which column counts was settled before the test split was measured.
    """
    measurements = [m for m in measurements if m.score.split == split]
    columns = list(dict.fromkeys(_head(m.row) for m in measurements))
    headlines = [columns.index(_head(m.row)) for m in measurements if m.row.headline and m.row.layer == "h"]
    scores: dict[str, dict[str, Score]] = {}
    for m in measurements:
        ceiling = m.score.settings.get("ceiling")
        label = m.label if ceiling is None else f"{m.label}, at most {ceiling:.4f}"
        label += ", lower is better" * (m.score.higher_is_better is False)
        scores.setdefault(label, {})[_head(m.row)] = m.score
    rows = [TableRow(label, [by_column.get(column) for column in columns]) for label, by_column in scores.items()]
    return Table(columns, rows, headlines[0] if headlines else None)


def _head(row: ReportRow) -> str:
    epoch = "" if row.epoch is None else f", epoch {row.epoch}"
    return "\n".join(textwrap.wrap(f"{row.label}{epoch}, {row.layer}", 13))


def format_score(score: Score | None) -> str:
    """Value and uncertainty; empty for None.

    >>> format_score(Score("knn_top1", "kNN top-1", 0.8445, {"std": 0.005}))
    '0.8445 ±0.005'
    """
    if score is None:
        return ""
    spread = score.settings.get("ci95") or score.settings.get("std")
    return f"{score.value:.4f}" + (f" ±{spread:.3f}" if spread else "")


def print_table(table: Table, title: str) -> None:
    printed = RichTable(title=title)
    printed.add_column("", no_wrap=True)
    for column in table.columns:
        printed.add_column(column, justify="right")
    for row in table.rows:
        printed.add_row(row.label, *map(format_score, row.scores))
    console = table_console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(printed)
