"""CSV files as people have them: from spreadsheets, databases and annotation tools."""

import codecs
import csv
import io
from collections import Counter
from pathlib import Path

__all__ = ["FILE_COLUMNS", "MARKS", "read_table"]

# names of the column with the files, in the order in which they are looked for
FILE_COLUMNS = (
    "file", "file_name", "filename", "filepath", "file_path", "image", "image_name", "image_path", "img", "path",
)  # fmt: skip
DELIMITERS = ",;\t|"
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_table(path: str, encoding: str | None = None) -> tuple[str, list[str], list[dict[str, str]]]:
    """The column with the files, all columns, and the rows of a CSV file.

    Cells are separated by commas, semicolons, tabs or bars, whichever the header has. Columns without a name, as those
    of row numbers are, are left out.

    Args:
        encoding: data.labels_encoding; None: UTF-8, or what a byte-order mark says.

    Raises:
        ValueError: it cannot be used; names the option.
    """
    option = f"data.labels={path}"
    text = _text(path, encoding)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error as error:
        raise ValueError(f"{option} cannot be read as CSV ({error})") from error
    header = [name.strip() for name in rows[0]] if rows else []
    cells = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    named = {i: name for i, name in enumerate(header) if name}
    if twice := [name for name, count in Counter(named.values()).items() if count > 1]:
        raise ValueError(f"{option} has two columns of the name {twice[0]}; rename one or remove it")
    file = _file_column(list(named.values()))
    if file is None or len(named) < 2 or not cells:
        raise ValueError(f"{option} needs a column `file` and a column of labels, and rows; its first row is {header}")
    place = header.index(file)
    if long := [row for row in cells if len(row) > len(header)]:
        raise ValueError(f"{option}: the row of {long[0][place]} has more cells than there are columns")
    found = [{name: row[i].strip() if i < len(row) else "" for i, name in named.items()} for row in cells]
    return file, list(named.values()), found


def _text(path: str, encoding: str | None) -> str:
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(
            f"data.labels={path} cannot be read ({error}); it is a file with a table of labels; data.label or "
            "data.label_column is the column of labels that the data has itself"
        ) from error
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding or marked)
    except LookupError as error:
        raise ValueError(f"data.labels_encoding={encoding}: Python knows no such encoding; such as cp1252") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"data.labels={path} is not {encoding or 'UTF-8'} (line {line}); save it as UTF-8, or say its encoding, "
            "data.labels_encoding=cp1252 for Windows' of Western Europe"
        ) from error


def _delimiter(text: str) -> str:
    """Whichever gives the header a column of files; of several, the one that gives more columns."""
    header = text.split("\n", 1)[0]

    def fits(delimiter: str) -> tuple[bool, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        return _file_column(names) is not None, len(names)

    return max(DELIMITERS, key=fits)


def _file_column(names: list[str]) -> str | None:
    by_name = {name.lower().replace(" ", "_"): name for name in reversed(names)}
    return next((by_name[name] for name in FILE_COLUMNS if name in by_name), None)
