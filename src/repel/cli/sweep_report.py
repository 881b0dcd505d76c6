"""A report of a sweep: repel report SWEEP [metric=NAME[,NAME]] [against=ROW]

SWEEP is a folder of runs, finished or not, such as sweeps/train/DATE or runs/train; latest is the newest sweep. Prints
Markdown and writes it there as report.md, with report.json, bars.png and curves.png. A row is a set of overrides
without the seed. against= names the row to compare with, seed by seed, by enough of its overrides to identify it.
"""

import math
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repel.base.drawing import attempt
from repel.cli import compare, paired
from repel.cli.compare import Cell, Run
from repel.cli.latest import SWEEP, newest
from repel.cli.sweep_plots import draw_bars, draw_curves
from repel.cli.sweeps import as_typed
from repel.engine.outcomes import is_mistake
from repel.engine.runs import write_json
from repel.monitoring.objective import COMPARED


def main() -> int:
    """Report a sweep: SWEEP [metric=NAME[,NAME]] [against=ROW]"""
    options = dict(a.split("=", 1) for a in sys.argv[2:] if "=" in a)
    if len(sys.argv) < 2 or len(options) < len(sys.argv) - 2 or options.keys() - {"metric", "against"}:
        print("error: usage: repel report SWEEP [metric=NAME[,NAME]] [against=ROW]", file=sys.stderr)
        return 2
    try:
        sweep = Path(newest(SWEEP, sys.argv[1], sys.argv[1]))
        metrics = options["metric"].split(",") if "metric" in options else None
        print(report(sweep, metrics, options.get("against")))
    except ValueError as error:
        if not is_mistake(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def report(folder: Path, metrics: list[str] | None, against: str | None) -> str:
    """Write a report into the folder; returns its Markdown.

    Args:
        metrics: names, as metrics.json has them; None: test/ndcg_at_20 where runs have it, else test/knn_top1.
        against: the row to compare with.

    Raises:
        ValueError: no runs, an unknown metric or row.
    """
    found = compare.read(folder)
    if not found:
        raise ValueError(f"there are no runs in {folder}; name a sweep's folder, such as sweeps/train/DATE")
    cells, same = compare.cells(found)
    known = compare.known_metrics(found)
    metrics = metrics or [next((name for name in COMPARED if name in known), COMPARED[-1])]
    for metric in metrics if known else ():
        if metric not in known:
            raise ValueError(f"metric={metric}: no finished run has it; there are: {', '.join(known)}")
    reference = None if against is None else row_named(against, cells)
    left = compare.missing(folder, found)
    text = states(found, left, folder, same)
    for metric in metrics if known else ():
        text += ["", *table(cells, metric, reference, known), *pivot(cells, metric)]
    markdown = "\n".join(text) + "\n"
    try:
        (folder / "report.md").write_text(markdown, encoding="utf-8")
    except OSError as error:  # of somebody else's sweep
        print(f"note: {folder} cannot be written ({error.strerror}): the report is only printed", file=sys.stderr)
        return markdown
    write_json(folder / "report.json", numbers(folder, found, left, cells, same, metrics, reference))
    if known:
        attempt("bars.png", lambda: draw_bars(cells, metrics, known, folder / "bars.png"))
    attempt("curves.png", lambda: draw_curves(cells, metrics[0], folder / "curves.png"))
    return markdown


def row_named(against: str, cells: list[Cell]) -> Cell:
    wanted = compare.cell_of(against.split()).items()
    fitting = [c for c in cells if c.name == against] or [c for c in cells if wanted and wanted <= c.overrides.items()]
    if len(fitting) != 1:
        names = "; ".join(c.name for c in (fitting or cells))
        raise ValueError(
            f"against={against} fits {len(fitting) or 'no'} row{'s' * (len(fitting) != 1)}; name one of: {names}"
        )
    return fitting[0]


def states(found: list[Run], left: list[str], folder: Path, same: dict[str, str]) -> list[str]:
    """The number of runs in each state, and the unfinished runs by name."""
    counts = Counter(run.state for run in found) + Counter(missing=len(left))
    lines = [f"{len(found) + len(left)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
    if same:
        lines.append(f"in all of them: `{as_typed(same)}`")
    headlines = Counter(run.headline for run in found if run.state != "unreadable")
    if len(headlines) > 1:
        of_each = ", ".join(f"{checkpoint} in {n}" for checkpoint, n in headlines.items())
        lines.append(f"the checkpoint of `test/...` (evaluation.checkpoint) is not the same in all runs: {of_each}")
    for run in found:
        if run.state not in compare.DONE:
            cell = as_typed({k: v for k, v in run.cell.items() if k not in same})
            lines.append(f"- {run.state}: {run.folder.relative_to(folder)} {cell} seed={run.seed}".replace("  ", " "))
    if other := compare.with_other_data(found):
        names = ", ".join(str(run.folder.relative_to(folder)) for run in other)
        lines.append(f"- other data: with the same options, the samples of {names} are not those of earlier runs")
    return lines + [f"- missing: {job}" for job in left]


def table(cells: list[Cell], metric: str, reference: Cell | None, known: list[str]) -> list[str]:
    """One row per cell: mean ± standard deviation over seeds, and the paired difference with its 95 % interval."""
    columns = [*compare.baselines_of(metric, known), metric]
    heads = ["run", "seeds", *columns] + ([] if reference is None else [f"against {reference.name}, 95 %"])
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for cell in cells:
        row = [cell.name, str(len(cell.values(metric))), *(spread(list(cell.values(m).values())) for m in columns)]
        if reference is not None:
            row.append("" if cell is reference else interval(paired.difference(cell, reference, metric)))
        lines.append(f"| {' | '.join(row)} |")
    return lines


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    if wrong := sum(not math.isfinite(value) for value in values):
        return f"{wrong} of {len(values)} not finite"
    mean, std = paired.mean_std(values)
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def interval(difference: paired.Difference | None) -> str:
    if difference is None:
        return "no common seed"
    if not math.isfinite(difference.mean):
        return "not finite"
    if difference.half is None:
        return f"{difference.mean:+.4f} (one seed)"
    low, high = difference.mean - difference.half, difference.mean + difference.half
    return f"{difference.mean:+.4f} [{low:+.4f}, {high:+.4f}], n = {len(difference.seeds)}"


def pivot(cells: list[Cell], metric: str) -> list[str]:
    """If exactly two options vary, a table of one against the other."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell.overrides))
    if len(keys) != 2:
        return []
    rows, columns = (list(dict.fromkeys(cell.overrides.get(key, "-") for cell in cells)) for key in keys)
    at = {tuple(cell.overrides.get(key, "-") for key in keys): cell for cell in cells}
    lines = [
        "",
        f"| {metric}: {keys[0]} \\ {keys[1]} | {' | '.join(c or 'left out' for c in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        values = [list(at[row, c].values(metric).values()) if (row, c) in at else [] for c in columns]
        lines.append(f"| {row or 'left out'} | {' | '.join(map(spread, values))} |")
    return lines


def numbers(
    folder: Path, found: list[Run], left: list[str], cells: list[Cell], same: dict[str, str], metrics: list[str],
    reference: Cell | None,
) -> dict[str, Any]:  # fmt: skip
    """report.json."""

    def row(cell: Cell, metric: str) -> dict[str, Any]:
        values = cell.values(metric)
        mean, std = paired.mean_std(list(values.values())) if values else (None, None)
        gain = paired.difference(cell, reference, metric) if reference is not None else None
        return {"n": len(values), "mean": mean, "std": std, "by_seed": values, "difference": gain and asdict(gain)}

    return {
        "runs": [{"folder": str(r.folder.relative_to(folder)), "state": r.state, "seed": r.seed} for r in found],
        "missing": left,
        "same": same,
        "against": reference and reference.name,
        "rows": [{"name": c.name, "overrides": c.overrides} | {m: row(c, m) for m in metrics} for c in cells],
    }
