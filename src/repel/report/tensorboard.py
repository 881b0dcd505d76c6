"""The end of a run in TensorBoard: its table as text, figures, the embedding projector, the metrics of HPARAMS."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from repel.base.drawing import attempt
from repel.evaluation.modality import Plot
from repel.evaluation.text_table import TextTable
from repel.monitoring.tensorboard import METRICS, RANKING_METRICS, add_text, event_folder, tag_of
from repel.report import plots
from repel.report.projector import write_projector
from repel.report.report import Report
from repel.report.table import Table, format_score, make_table

__all__ = ["markdown_table", "write_tensorboard"]


def write_tensorboard(folder: Path, step: int, report: Report, drawn: Sequence[Plot], points: int | None) -> None:
    """Write into the run's events.

    What was measured once is no curve: all numbers are tables under TEXT, and the few of HPARAMS are scalars.

    Args:
        step: the run's last.
        drawn: figures.
        points: of the projector at most; None: all validation samples.
    """
    place = event_folder(folder)
    with SummaryWriter(str(place)) as writer:
        for name in (*METRICS, *RANKING_METRICS):
            if name.startswith("test/") and name in report.metrics:
                writer.add_scalar(tag_of(name) if place == folder else name, report.metrics[name], step)
        for split, words in (("test", "test split"), ("val", "validation split, by which the probes were chosen")):
            if (table := make_table(report.measurements, split)).rows:
                add_text(writer, f"results/{split}", f"**{words}**\n\n{markdown_table(table)}", step)
        for plot in drawn:
            if isinstance(plot.picture, TextTable):
                add_text(writer, f"embedding/{plot.name}", plot.picture.markdown(), step)
            else:
                writer.add_image(f"embedding/{plot.name}", plots.rgb_array(plot.picture), step, dataformats="HWC")
    if (val := report.validation) is not None:
        attempt("TensorBoard's projector", partial(write_projector, place, val, report.classes, points))


def markdown_table(table: Table) -> str:
    """A row a metric, a column for each row of features."""
    rows = [["", *table.columns], ["---", *["---:"] * len(table.columns)]]
    rows += [[row.label, *map(format_score, row.scores)] for row in table.rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in row)} |" for row in rows)
