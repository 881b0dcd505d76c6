"""Texts of any number in a few arrays, which may lie on disk, instead of a string object each."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from repel.base.collectives import rank
from repel.base.progress import Progress
from repel.text.cache import ArrayWriter, Kept
from repel.text.texts import text_ids

__all__ = ["PackedTexts", "Row", "pack"]

BLOCK = 2**14  # rows at a time
SHOWN = 100_000  # rows from which on progress is shown


class Row(NamedTuple):
    """A row of a file.

    cells: the text; its positive, if there are such; its negatives.
    label: "" where it is unknown.
    name: of the text, or "".
    """

    cells: Sequence[str]
    label: str = ""
    name: str = ""


class PackedTexts(Sequence[str]):
    """N strings, one behind the other in UTF-8.

    Args:
        data: (bytes,) uint8; ends: (N,) int64, where each string ends; ids: (N,) int64, see text_ids.
        folder: in which what is made of these strings may be kept; None: in memory.
        column: which of the folder's columns these are.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray, ids: np.ndarray, folder: Path | None, column: str):
        self.data, self.ends, self.ids, self.folder, self.column = data, ends, ids, folder, column

    @classmethod
    def of(cls, kept: Kept, column: str) -> "PackedTexts":
        """A column that pack wrote."""
        data, ends, ids = (kept.arrays[f"{column}.{part}"] for part in ("data", "ends", "ids"))
        return cls(data, ends, ids, kept.folder, column)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        begin = int(self.ends[place - 1]) if place else 0
        return self.data[begin : int(self.ends[place])].tobytes().decode()


def pack(rows: Iterable[Row], columns: Sequence[str], writer: ArrayWriter) -> dict[str, Any]:
    """Write texts, their ids, labels and names; those without a text, positive or negative are left out.

    Returns:
        found, how many rows there were; left_out: reason -> how many; classes: the labels, in the order of their
        numbers.
    """
    codes: dict[str, int] = {}
    left_out, ends = Counter[str](), dict.fromkeys(columns, 0)
    found = 0
    with Progress("reading", writer.folder is not None or rank() == 0) as progress:
        rows = iter(rows)
        while block := list(islice(rows, BLOCK)):
            found += len(block)
            kept = list(_complete(block, columns, left_out))
            for number, column in enumerate(columns):
                _append(writer, column, [row.cells[number] for row in kept], ends)
            labels = [codes.setdefault(row.label, len(codes)) if row.label else -1 for row in kept]
            writer.append("labels", np.array(labels, np.int64))
            if any(row.name for row in kept):
                _append(writer, "names", [row.name for row in kept], ends)
            if found >= SHOWN:
                progress(found, None, "texts")
    return {"found": found, "left_out": dict(left_out), "classes": list(codes)}


def _complete(block: Iterable[Row], columns: Sequence[str], left_out: Counter[str]) -> Iterable[Row]:
    """Rows whose cells are all there, without white space around them."""
    for row in block:
        cells = [cell.strip() for cell in row.cells]
        if all(cells):
            yield Row(cells, row.label.strip(), row.name)
        else:
            left_out[f"without a {columns[cells.index('')].split('.')[0]}"] += 1


def _append(writer: ArrayWriter, column: str, texts: list[str], ends: dict[str, int]) -> None:
    encoded = [text.encode() for text in texts]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    begin = ends.get(column, 0)
    writer.append(f"{column}.data", np.frombuffer(b"".join(encoded), np.uint8))
    writer.append(f"{column}.ends", begin + sizes.cumsum())
    writer.append(f"{column}.ids", text_ids(texts).numpy())
    ends[column] = begin + int(sizes.sum())
