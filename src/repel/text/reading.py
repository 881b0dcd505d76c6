"""From rows of files to splits of texts, whatever the files are; and what a reader says of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.labels import alike
from repel.data.samples import Splits
from repel.text.cache import Kept, cache_folder, kept_arrays
from repel.text.packed import PackedTexts, Row, pack
from repel.text.texts import RawTexts, TextStore

__all__ = ["Source", "choose_text_column", "column_names", "listed", "read_splits"]

SINGLE = 0.5  # of the labels; where more stand in one row alone, they name things instead of classes
TEXT_COLUMNS = {
    "text", "texts", "sentence", "sentences", "content", "review", "tweet", "comment", "body", "document", "question",
    "query", "title", "headline", "abstract", "description", "message", "utterance", "passage", "anchor",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What one split is read from.

    name: for people.
    files: on which its rows depend.
    rows: reads them.
    unit: what is counted: rows, lines, files.
    note: what else is to be said of it.
    """

    name: str
    files: Sequence[Path]
    rows: Callable[[], Iterable[Row]]
    unit: str
    note: str = ""


def read_splits(
    sources: dict[str, Source],
    columns: Sequence[str],
    options: Any,
    cache: str | None,
    classes: Sequence[str] | None = None,
) -> Splits:
    """The splits of these sources; a line for each says what was read and left out.

    Args:
        sources: train, and val and test where there are such.
        columns: text, then positive if there are such, then a negative.1, negative.2, ...
        options: JSON, on which the rows depend besides the files.
        cache: data.cache.
        classes: in the order of the labels; None: sorted.

    Raises:
        ValueError: a split has no text; or by what reads the rows.
    """
    files = {file for source in sources.values() for file in source.files}
    folder = cache_folder(cache, sum(file.stat().st_size for file in files))
    kept = {split: _keep(source, columns, options, folder) for split, source in sources.items()}
    for split, source in sources.items():
        _check_and_print(source, kept[split])
    found = {name for one in kept.values() for name in one.facts["classes"]}
    names = sorted(found) if classes is None else list(classes)
    parts = {split: _texts(one, columns, names) for split, one in kept.items()}
    _print_doubts(parts, names)
    return Splits(parts["train"], parts.get("test"), parts.get("val"), names)


def _keep(source: Source, columns: Sequence[str], options: Any, folder: Path | None) -> Kept:
    """The arrays of a source, made or found."""
    paths = [str(file.resolve()) for file in source.files]
    states = [(state.st_size, state.st_mtime_ns) for state in map(Path.stat, source.files)]
    what = repr((source.name, paths, columns, options)).encode("utf-8", "surrogateescape")
    which = blake2b(what, digest_size=6).hexdigest()
    name = "".join(c if c.isalnum() else "_" for c in Path(source.name).name)[:40]

    def build(writer: Any) -> dict[str, Any]:
        return pack(source.rows(), columns, writer)

    return kept_arrays(folder, f"{name}-{which}", [which, states], build, replaces=True)


def _texts(kept: Kept, columns: Sequence[str], classes: Sequence[str]) -> RawTexts:
    column = partial(PackedTexts.of, kept)
    positives = column("positive") if "positive" in columns else None
    negatives = tuple(column(name) for name in columns if name.startswith("negative"))
    store = TextStore(column("text"), positives, negatives)
    labels = None
    if kept.facts["classes"]:
        place = {name: number for number, name in enumerate(classes)}
        codes = np.array([place[name] for name in kept.facts["classes"]] + [-1], np.int64)
        labels = torch.from_numpy(codes[kept.arrays["labels"]])
    names = np.array(list(column("names")), dtype=object) if "names.ends" in kept.arrays else None
    return RawTexts(torch.arange(len(store.texts)), labels, names, store=store)


def _check_and_print(source: Source, kept: Kept) -> None:
    """One line: how many rows there are, what was left out, and how many texts stand there twice.

    Raises:
        ValueError: none is left.
    """
    found, read = kept.facts["found"], len(kept.arrays.get("labels", ()))
    repeated = read - len(np.unique(kept.arrays["text.ids"])) if read else 0
    words = [f"found {found:,} {source.unit}, read {read:,}"]
    words[0] += f", of which {repeated:,} repeat an earlier text" if repeated else ""
    if kept.facts["left_out"]:
        words.append("left out: " + ", ".join(f"{count:,} {why}" for why, count in kept.facts["left_out"].items()))
    if not read:
        raise ValueError(f"data.root: no texts in {shown(source.name)}: {'; '.join(words)}")
    if source.note:
        words.append(source.note)
    if rank() == 0:
        print(f"texts    {shown(source.name)}: {'; '.join(words)}", flush=True)


def _print_doubts(parts: dict[str, RawTexts], classes: Sequence[str]) -> None:
    """Say which labels look like one, and how many texts of other splits were trained on."""
    if rank() != 0:
        return
    if pair := alike(classes):
        print(f"note     {pair[0]!r} and {pair[1]!r} are two classes; spell them alike if they are one")
    labels = parts["train"].labels
    alone = 0 if labels is None else int((torch.bincount(labels[labels >= 0]) == 1).sum())
    if len(classes) > 2 and alone > SINGLE * len(classes):
        print(f"note     {alone:,} of {len(classes):,} labels stand in one row of train alone; as classes they measure "
              "nothing")  # fmt: skip
    train = parts["train"].keys().numpy()
    for split in ("val", "test"):
        if split in parts and (count := int(np.isin(parts[split].keys().numpy(), train).sum())):
            print(f"note     {count:,} of {len(parts[split]):,} {split} texts are in train, too: what is measured on "
                  "them is no test; remove them from one of the two")  # fmt: skip


def listed(columns: str | Sequence[str] | None) -> list[str]:
    """The names in an option of none, one or several."""
    if columns is None:
        return []
    return list(columns) if isinstance(columns, Sequence) and not isinstance(columns, str) else [str(columns)]


def column_names(positive: str | None, negative: str | Sequence[str] | None) -> list[str]:
    """What columns hold, in the order of a row's cells."""
    negatives = [f"negative.{number}" for number, _ in enumerate(listed(negative), 1)]
    return ["text", *(["positive"] if positive is not None else []), *negatives]


def choose_text_column(where: str, columns: Sequence[str], typed: str | None, used: Sequence[str]) -> str:
    """The column of texts.

    Args:
        where: the file, for messages.
        columns: of which.
        typed: data.text; None: the only one of them that is named as columns of texts are.
        used: columns that are something else.

    Raises:
        ValueError: there is none, or several could be.
    """
    there = ", ".join(map(shown, columns)) or "none"
    if typed is not None:
        if typed not in columns:
            raise ValueError(f"data.text={typed}: {where} has no such column; it has {there}")
        return typed
    fitting = [name for name in columns if name not in used and name.lower() in TEXT_COLUMNS]
    if len(fitting) != 1:
        raise ValueError(f"data.text=COLUMN must say which column holds the texts; {where} has {there}")
    return fitting[0]
