"""Text datasets of Hugging Face's `datasets` on disk."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from repel.data.csv_files import check_roles
from repel.data.huggingface import load_splits, read_labels
from repel.data.samples import Splits
from repel.text.packed import Row
from repel.text.reading import Source, choose_text_column, column_names, listed, read_splits

__all__ = ["text_hf"]

STRINGS = ("string", "large_string")


def text_hf(
    root: str,
    text: str | None = None,
    label: str | None = None,
    positive: str | None = None,
    negative: str | Sequence[str] | None = None,
    cache: str | None = "auto",
) -> Splits:
    """Read a folder that `save_to_disk` wrote, or one that `load_dataset` reads, such as of Parquet files.

    Nothing is downloaded, and no code of the dataset's is run.

    Args:
        root: the folder.
        text: the column of texts; None: the only one of strings, or the only one that is named text or the like.
        label: the column of classes; None: the only one of class labels, or that named label, if there is one.
        positive: the column of a second text that is the text's positive; or None.
        negative: that of its hard negative, or several; or None.
        cache: see cache.cache_folder.

    Raises:
        ValueError: an option, or what is in the folder; one line that names the option.
    """
    read = load_splits(root, "data=text_hf")
    where, others = f"data.root={root}", [*listed(positive), *listed(negative)]
    strings = [name for name, kind in read["train"].features.items() if getattr(kind, "dtype", "") in STRINGS]
    used = [*others, *listed(label)]
    left = [name for name in strings if name not in used]
    named = left[0] if text is None and len(left) == 1 else choose_text_column(where, strings, text, used)
    check_roles({"text": [named], "label": listed(label), "positive": listed(positive), "negative": listed(negative)})
    for option, column in [("text", named), *(("positive", n) for n in listed(positive)),
                           *(("negative", n) for n in listed(negative))]:  # fmt: skip
        for split, part in read.items():
            if column not in part.features:
                raise ValueError(f"data.{option}={column}: {where} has no such column in {split}")
    labels, classes = read_labels(root, read, label, "data.label")
    files = sorted(file for file in Path(root).expanduser().rglob("*") if file.is_file())
    sources = {
        split: Source(split, files, partial(_rows, part, [named, *others], labels[split], classes), "rows")
        for split, part in read.items()
    }
    return read_splits(
        sources, column_names(positive, negative), ["hf", *sources, named, *others, label], cache, classes
    )


def _rows(dataset: Any, columns: Sequence[str], labels: Tensor | None, classes: Sequence[str]) -> Iterator[Row]:
    done = 0
    for batch in dataset.select_columns(columns).with_format(None).iter(1000):
        for cells in zip(*(batch[column] for column in columns), strict=True):
            label = -1 if labels is None else int(labels[done])
            yield Row(["" if cell is None else str(cell) for cell in cells], classes[label] if label >= 0 else "")
            done += 1
