"""What else is known of items: titles and kinds, in a CSV file with a row an item."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.csv_files import check_roles
from repel.data.samples import Splits
from repel.interactions.csv_columns import CsvFormat, CsvTable
from repel.interactions.pairs import EntityStore, Interactions

__all__ = ["ItemTable", "with_table"]


@dataclass(frozen=True)
class ItemTable:
    """Which columns of which file.

    items: the file.
    item: its column of items, as in the log; None: the only one that is named item, item_id or the like.
    title, label: what people call the items, and their kinds; or None. An empty cell is unknown.
    form: how it is written.
    """

    items: Path
    item: str | None
    title: str | None
    label: str | None
    form: CsvFormat

    @classmethod
    def of(
        cls, items: str | None, item: str | None, title: str | None, label: str | None, form: CsvFormat
    ) -> "ItemTable | None":
        """None without a file.

        Args:
            item: the log's column, which the file may have, too.

        Raises:
            ValueError: there is no such file, or an option is missing.
        """
        named = {"item_name": title, "item_label": label}
        typed = {option: str(name) for option, name in named.items() if name is not None}
        if items is None:
            if typed:
                option, name = next(iter(typed.items()))
                raise ValueError(f"data.{option}={name} is a column of data.items=FILE; name the file, too")
            return None
        if not typed:
            raise ValueError(f"data.items={items} needs data.item_name=COLUMN or data.item_label=COLUMN, or both")
        if not (file := Path(items).expanduser()).is_file():
            raise ValueError(f"data.items={items}: there is no such file")
        return cls(file, item, typed.get("item_name"), typed.get("item_label"), form)

    def rows(self) -> dict[str, tuple[str, str]]:
        """Item -> its title and label, each empty where unknown; of items that stand there twice, the first row."""
        wanted = [name for name in (self.item, self.title, self.label) if name is not None]
        table = CsvTable(self.items, self.form, wanted, f"data.items={self.items}")
        item = table.column("item", self.item if self.item in table.names else None)
        typed = {"item": item, "item_name": self.title, "item_label": self.label}
        columns = {role: table.column(role, name) for role, name in typed.items() if name is not None}
        check_roles({role: [name] for role, name in columns.items()})
        found: dict[str, tuple[str, str]] = {}
        for _, cells in table.chunks(list(columns.values())):
            of = dict(zip(columns, cells, strict=True))
            none = [""] * len(cells[0])
            for row in zip(of["item"], of.get("item_name", none), of.get("item_label", none), strict=True):
                name, title, label = map(str.strip, row)
                found.setdefault(name, (title, label))
        return found


def with_table(splits: Splits, table: ItemTable) -> Splits:
    """The splits with items of which people know titles and kinds; a line says how many.

    Raises:
        ValueError: it lists none of the items.
    """
    parts = splits.train, splits.test, splits.val
    assert isinstance(splits.train, Interactions)
    rows, store = table.rows(), splits.train.store
    names = store.item_names if len(store.item_names) else [str(item) for item in range(store.items)]
    listed = [rows.get(name, ("", "")) for name in names]
    if not any(name in rows for name in names):
        first = next(iter(rows), "")
        raise ValueError(
            f"data.items={table.items} lists none of the items of the log, such as {names[0]!r}; its own are such as "
            f"{first!r}"
        )
    titled = _titled(store, names, listed, table)
    if rank() == 0:
        titles, labels = (sum(map(bool, column)) for column in zip(*listed, strict=True))
        words = [f"{count:,} have a {word}" for word, count in (("name", titles), ("label", labels)) if count]
        print(f"items    {shown(table.items.name)}: of {len(names):,} items, {', '.join(words) or 'none'}", flush=True)
    train, test, val = (replace(part, store=titled) for part in parts if isinstance(part, Interactions))
    return replace(splits, train=train, test=test, val=val)


def _titled(
    store: EntityStore, names: Sequence[str], listed: Sequence[tuple[str, str]], table: ItemTable
) -> EntityStore:
    titles = [title or name for name, (title, _) in zip(names, listed, strict=True)] if table.title else ()
    if not table.label:
        return replace(store, item_titles=titles)
    classes = sorted({label for _, label in listed if label})
    number = {label: place for place, label in enumerate(classes)} | {"": -1}
    labels = torch.tensor([number[label] for _, label in listed])
    return replace(store, item_titles=titles, item_labels=labels, classes=classes)
