"""What else is known of items: titles, kinds and texts, in a CSV file with a row an item."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.csv_files import check_roles
from repel.data.samples import Splits
from repel.interactions.csv_columns import CsvFormat, CsvTable
from repel.interactions.item_texts import ItemTexts, Tokenize
from repel.interactions.pairs import EntityStore, Interactions

__all__ = ["ItemTable", "with_table"]


FIELDS = ("name", "label", "text")  # the options data.item_name, ...


class _Row(NamedTuple):
    """Of one item, empty where unknown."""

    name: str = ""
    label: str = ""
    text: str = ""


@dataclass(frozen=True)
class ItemTable:
    """Which columns of which file.

    items: the file.
    item: its column of items, as in the log; None: the only one that is named item, item_id or the like.
    title, label, text: what people call the items, their kinds, and what is written of them, which may be a column
        that is named already; or None. An empty cell is unknown.
    form: how it is written.
    tokenize: see item_texts.ItemTexts; None: texts are not read.
    """

    items: Path
    item: str | None
    title: str | None
    label: str | None
    form: CsvFormat
    text: str | None = None
    tokenize: Tokenize | None = None

    @classmethod
    def of(
        cls,
        items: str | None,
        item: str | None,
        title: str | None,
        label: str | None,
        form: CsvFormat,
        text: str | None = None,
        tokenize: Tokenize | None = None,
    ) -> "ItemTable | None":
        """None without a file.

        Args:
            item: the log's column, which the file may have, too.

        Raises:
            ValueError: there is no such file, or an option is missing.
        """
        named = {"item_name": title, "item_label": label, "item_text": text}
        typed = {option: str(name) for option, name in named.items() if name is not None}
        if items is None:
            if typed:
                option, name = next(iter(typed.items()))
                raise ValueError(f"data.{option}={name} is a column of data.items=FILE; name the file, too")
            return None
        if not typed:
            raise ValueError(
                f"data.items={items} needs data.item_name=COLUMN, data.item_label=COLUMN or data.item_text=COLUMN, or "
                "several of them"
            )
        if not (file := Path(items).expanduser()).is_file():
            raise ValueError(f"data.items={items}: there is no such file")
        title, label, text = map(typed.get, named)
        return cls(file, item, title, label, form, text, tokenize)

    def rows(self) -> dict[str, _Row]:
        """Item -> what is known of it; of items that stand there twice, the first row."""
        wanted = [name for name in (self.item, self.title, self.label, self.text) if name is not None]
        table = CsvTable(self.items, self.form, wanted, f"data.items={self.items}")
        item = table.column("item", self.item if self.item in table.names else None)
        typed = {"item": item, "item_name": self.title, "item_label": self.label}
        columns = {role: table.column(role, name) for role, name in typed.items() if name is not None}
        check_roles({role: [name] for role, name in columns.items()})
        if self.text is not None:
            columns["item_text"] = table.column("item_text", self.text)
        found: dict[str, _Row] = {}
        for _, cells in table.chunks(list(columns.values())):
            of = dict(zip(columns, cells, strict=True))
            none = [""] * len(cells[0])
            for name, *row in zip(of["item"], *(of.get(f"item_{field}", none) for field in FIELDS), strict=True):
                found.setdefault(name.strip(), _Row(*map(str.strip, row)))
        return found


def with_table(splits: Splits, table: ItemTable) -> Splits:
    """The splits with items of which titles, kinds and texts are known; a line says of how many.

    Raises:
        ValueError: it lists none of the items.
    """
    parts = splits.train, splits.test, splits.val
    assert isinstance(splits.train, Interactions)
    rows, store = table.rows(), splits.train.store
    names = store.item_names if len(store.item_names) else [str(item) for item in range(store.items)]
    listed = [rows.get(name, _Row()) for name in names]
    if not any(name in rows for name in names):
        first = next(iter(rows), "")
        raise ValueError(
            f"data.items={table.items} lists none of the items of the log, such as {names[0]!r}; its own are such as "
            f"{first!r}"
        )
    if table.text and not any(row.text for row in listed):
        raise ValueError(f"data.item_text={table.text}: no item of the log has a text in {shown(table.items.name)}")
    titled = _titled(store, names, listed, table)
    if rank() == 0:
        counts = [sum(map(bool, column)) for column in zip(*listed, strict=True)]
        words = [f"{count:,} have a {word}" for word, count in zip(FIELDS, counts, strict=True) if count]
        print(f"items    {shown(table.items.name)}: of {len(names):,} items, {', '.join(words) or 'none'}", flush=True)
    train, test, val = (replace(part, store=titled) for part in parts if isinstance(part, Interactions))
    return replace(splits, train=train, test=test, val=val)


def _titled(store: EntityStore, names: Sequence[str], listed: Sequence[_Row], table: ItemTable) -> EntityStore:
    titles = [row.name or name for name, row in zip(names, listed, strict=True)] if table.title else ()
    store = replace(store, item_titles=titles)
    if table.text and table.tokenize:
        store = replace(store, item_texts=ItemTexts([row.text for row in listed], table.tokenize))
    if not table.label:
        return store
    classes = sorted({row.label for row in listed if row.label})
    number = {label: place for place, label in enumerate(classes)} | {"": -1}
    labels = torch.tensor([number[row.label] for row in listed])
    return replace(store, item_labels=labels, classes=classes)
