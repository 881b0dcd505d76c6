"""Anyone's own texts in CSV files: a column of texts, and of labels, positives and hard negatives where there are."""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.csv_files import check_column, check_roles, csv_header, csv_reader, split_files
from repel.data.samples import Splits
from repel.data.text_files import check_encoding
from repel.text.packed import Row
from repel.text.reading import Source, choose_text_column, column_names, listed, read_splits

__all__ = ["text_csv"]

ENDINGS = (".csv", ".tsv", ".txt")
Columns = dict[str, list[str]]  # text, label, positive, negative -> names of columns


def text_csv(
    root: str,
    text: str | None = None,
    label: str | None = None,
    positive: str | None = None,
    negative: str | Sequence[str] | None = None,
    encoding: str | None = None,
    quotes: bool = True,
    cache: str | None = "auto",
) -> Splits:
    """Read a file whose first row names its columns, or a folder with train.csv and perhaps val.csv and test.csv.

    Cells are separated by commas, semicolons, tabs or bars, whichever the first row has.

    Args:
        root: the file or folder.
        text: the column of texts; None: the only one that is named text, sentence, content or the like.
        label: the column of classes; an empty cell is unknown. None: there are no labels.
        positive: the column of a second text that is the text's positive; or None.
        negative: that of its hard negative, or several; or None.
        encoding: of the files; None: UTF-8, or what a byte-order mark says.
        quotes: whether double quotes stand around cells that hold separators or line breaks; False: they are letters.
        cache: see cache.cache_folder.

    Raises:
        ValueError: an option, or what is in the files; one line that names the option.
    """
    check_encoding(encoding)
    files, options = split_files(root, ENDINGS), (encoding, csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
    typed = {"label": listed(label), "positive": listed(positive), "negative": listed(negative)}
    header, _ = csv_header(files["train"], *options, [name for names in typed.values() for name in names])
    used = [name for names in typed.values() for name in names]
    named = choose_text_column(shown(files["train"].name), header, text, used)
    columns = {"text": [named], **typed}
    check_roles(columns)
    files = {split: file for split, file in files.items() if _has_columns(file, columns, split, *options)}
    unread = [name for name in header if name and name not in (named, *used)]
    note = f"columns not read: {', '.join(map(shown, unread))}" if unread else ""
    note += "; data.label=COLUMN takes labels" * bool(unread and not label and not positive)
    sources = {
        split: Source(file.name, [file], partial(_rows, file, columns, *options), "rows", note * (split == "train"))
        for split, file in files.items()
    }
    return read_splits(sources, column_names(positive, negative), ["csv", columns, *options], cache)


def _has_columns(file: Path, columns: Columns, split: str, encoding: str | None, quoting: int) -> bool:
    """Whether a split can be read; a line says so where val or test has no labels and is left out.

    Raises:
        ValueError: a column is not there, or is there twice.
    """
    header, _ = csv_header(file, encoding, quoting, [name for names in columns.values() for name in names])
    for option, name in ((option, name) for option, names in columns.items() for name in names):
        if name not in header and option == "label" and split != "train":
            if rank() == 0:
                print(f"note     {shown(file.name)} has no column {shown(name)}: it is left out, and as many as "
                      f"data.{split}_fraction says are held out of train")  # fmt: skip
            return False
        check_column(f"data.{option}", name, header, file)
    return True


def _rows(file: Path, columns: Columns, encoding: str | None, quoting: int) -> Iterator[Row]:
    """Raises ValueError where a row has more cells than there are columns."""
    header, delimiter = csv_header(file, encoding, quoting, [name for names in columns.values() for name in names])
    places = [header.index(name) for option, names in columns.items() if option != "label" for name in names]
    label = header.index(columns["label"][0]) if columns["label"] else None
    with csv_reader(file, encoding, quoting, delimiter) as reader:
        next(reader)
        for cells in reader:
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise ValueError(
                    f"data.root: {shown(file.name)}, line {reader.line_num:,}: {len(cells)} cells, and the first row "
                    f"names {len(header)} columns; put quotes around cells that hold {delimiter!r}"
                )
            cells += [""] * (len(header) - len(cells))
            yield Row([cells[place] for place in places], "" if label is None else cells[label])
