"""One self-contained HTML page of a report."""

import base64
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = {
    "training": "Training",
    "map": "Map of the test images' features",
    "neighbours": "Test images and their nearest training images, by cosine; green: the query's class",
    "similarities": "Similarities",
    "corruptions": "Corrupted test images",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: pre-line }
th { vertical-align: bottom } td:first-child, th:first-child { text-align: left }
td.best { font-weight: 600 } img { max-width: 100% } details td { font-size: .85rem } .note { color: #666 }
"""


def write_page(
    path: Path,
    title: str,
    heads: list[str],
    found: dict[str, dict[str, str]],
    records: list[dict[str, Any]],
    drawn: dict[str, bytes],
) -> None:
    """The table, the settings of every number, and the pictures, all inside the file.

    Args:
        heads: columns; found: row -> column -> value, as report.cells gives them.
        records: see protocol.measure.
        drawn: name -> PNG.
    """
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"]
    parts.append(f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>")
    parts.append(
        "<p class=note>All choices were made on training and validation images; test images were looked at afterwards. "
        "± is the 95 % interval over episodes, or the standard deviation over draws of labels.</p>"
    )
    body = [[words, *(values.get(head, "") for head in heads)] for words, values in found.items()]
    plain = {r["words"] for r in records if r["evaluator"] == "geometry"}  # more is not better
    parts.append(table(["", *heads], body, lambda words: words not in plain))
    for name, content in drawn.items():
        data = base64.b64encode(content).decode()
        words = html.escape(WORDS.get(name, name))
        parts.append(f"<h2>{words}</h2><img alt='{words}' src='data:image/png;base64,{data}'>")
    columns = ["metric", "split", "value", "layer", "epoch", "seed", "fitted_on", "scored_on"]
    rows = [[str(r[c]) for c in columns] + [settings(r)] for r in records]
    parts.append(f"<h2>Settings</h2><details><summary>all {len(rows)} numbers</summary>")
    parts.append(table([*columns, "settings"], rows) + "</details>")
    path.write_text("\n".join(parts) + "</html>\n")


def settings(record: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in record["settings"].items() if key != "by_strength")


def table(heads: list[str], rows: list[list[str]], mark: Callable[[str], bool] = lambda _: False) -> str:
    """An HTML table; the largest number of each row whose first cell is to be marked is bold."""
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    for row in rows:
        marked = mark(row[0])
        numbers = [float(cell.split()[0]) if cell else -1.0 for cell in row[1:]] if marked else []
        best = max(numbers, default=-1.0)
        cells = [f"<td>{html.escape(row[0])}</td>"]
        for i, cell in enumerate(row[1:]):
            cells.append(f"<td{' class=best' if marked and numbers[i] == best else ''}>{html.escape(cell)}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join(lines) + "</table>"
