"""Tables whose cells are people's texts, in Markdown and in report.html."""

import re
import unicodedata
from typing import NamedTuple

__all__ = ["TextTable", "on_one_line"]

LETTERS = 240  # of a text that is shown
DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # which would turn what follows them around


class TextTable(NamedTuple):
    """Cells as people wrote them: whoever shows the table escapes them.

    columns: their heads.
    rows: of cells, as many as columns.
    kinds: of each row, which report.html shows in their own way: `query`, `same`, `other`, or an empty string.
    """

    columns: list[str]
    rows: list[list[str]]
    kinds: list[str]

    def markdown(self) -> str:
        """In Markdown, with cells on one line and nothing in them that Markdown or HTML would take for its own.

        >>> print(TextTable(["text"], [["a|b <i>"]], [""]).markdown())
        | &emsp;text&emsp; |
        | --- |
        | a\\|b &lt;i> |
        """
        # TensorBoard breaks words in narrow columns, and makes a column as wide as its cells ask for
        lines = [[f"&emsp;{_escaped(head)}&emsp;" for head in self.columns], ["---"] * len(self.columns)]
        for cells, kind in zip(self.rows, self.kinds, strict=True):
            written = [_escaped(cell) for cell in cells]
            lines.append([f"**{cell}**" if kind == "query" and cell else cell for cell in written])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def on_one_line(text: str, letters: int = LETTERS) -> str:
    """A text as a line shows it: white space as single spaces, no control characters, cut where it is long.

    >>> on_one_line("two\\nlines"), on_one_line("abcdef", letters=4)
    ('two lines', 'abc…')
    """
    words = " ".join(DIRECTIONS.sub("", text[: 16 * letters]).split())
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c
                    for c in words)  # fmt: skip
    whole = len(shown) <= letters and len(text) <= 16 * letters
    return shown if whole else shown[: letters - 1].rstrip() + "…"


def _escaped(cell: str) -> str:
    """Letters that mean something in Markdown with a backslash; no tags and no entities of HTML."""
    text = " ".join(cell.split()).replace("&", "&amp;").replace("<", "&lt;").replace("~", "&#126;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)
