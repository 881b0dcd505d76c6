"""The samples of every split, whatever they are: read, prepared, held out, and labeled once or several times."""

from collections.abc import Callable

from torch import Tensor

from repel.base.collectives import rank
from repel.data.labels import Table, labels_from_classes
from repel.data.samples import CompleteSplits, Samples, Splits, Transform
from repel.data.splits import held_out, label_by_table, map_splits, without_single_class

__all__ = ["LabeledSplits"]


class LabeledSplits:
    """The samples of every split, and their further labels. Nothing is read before `setup` or `read`.

    Args:
        read: returns Splits.
        prepare: samples as read -> as used, for each split; None: as read.
        val_fraction: of the training samples, held out for validation where the data has no validation split.
        test_fraction: likewise for the test split.
        split_seed: which samples are held out; not the run's seed, so that runs with other seeds hold out the same.
        split_by: name or place, by which samples are held out, see splits.py.
        tasks: further labels to evaluate, name -> one for each class.
        table: further labels of the samples, by name; for samples without labels, its first column becomes their class.
        transform: is learned from the training samples and then applied to all, or None.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        read: Callable[[], Splits],
        prepare: Callable[[Samples], Samples] | None,
        val_fraction: float,
        test_fraction: float,
        split_seed: int,
        split_by: str,
        tasks: dict[str, list],
        table: Table | None,
        transform: Transform | None = None,
    ):
        for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 < fraction < 0.5:
                raise ValueError(f"data.{name} must be between 0 and 0.5, got {fraction}")
        if split_by not in ("name", "place"):
            raise ValueError(f"data.split_by must be name or place, got {split_by!r}")
        self.reader, self.prepare = read, prepare
        self.fractions, self.split_seed, self.split_by = (val_fraction, test_fraction), split_seed, split_by
        self.tasks, self.table, self.transform = tasks, table, transform
        self.class_column: str | None = None  # the table's column that became the class
        self.single_class: str | None = None  # of all training samples, whose labels are left out then
        self._splits: CompleteSplits | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the data, once; hold out what the data does not split itself."""
        if self._splits is None:
            splits = self._read()
            if self.table is not None and splits.train.labels is None:
                splits = label_by_table(splits, self.table)
                self.class_column = next(iter(self.table.codes))  # it is the class now, no further task
            complete = held_out(splits, *self.fractions, self.split_seed, self.split_by)
            complete, self.single_class, column = without_single_class(complete, self.table)
            self.class_column = self.class_column or column
            if self.transform is not None:
                if not self.transform.fitted:
                    self.transform.fit(complete.train)
                complete = map_splits(self.transform, complete)
                for note in self.transform.notes() if rank() == 0 else ():
                    print(f"note     {note}")
            self._splits = complete
            self._check_tasks()
            self.print_table_notes(splits)

    def read(self) -> Splits:
        """The data as its reader splits it, nothing held out; a transform must have been loaded."""
        splits = self._read()
        return splits if self.transform is None else map_splits(self.transform, splits)

    def _read(self) -> Splits:
        splits = self.reader()
        splits = splits if self.prepare is None else map_splits(self.prepare, splits)
        if self.table is not None:
            self.table.match(_names(splits))
        return splits

    @property
    def splits(self) -> CompleteSplits:
        assert self._splits is not None, "setup() comes first"
        return self._splits

    @splits.setter
    def splits(self, splits: CompleteSplits) -> None:
        self._splits = splits

    @property
    def labelled(self) -> bool:
        """Whether labels are known, so that evaluation can use them."""
        return all(part.labels is not None and len(part.labelled) for part in (self.splits.train, self.splits.val))

    def columns(self, samples: Samples) -> dict[str, Tensor]:
        """Name of each further task -> its labels (N,) of these samples, -1 where unknown."""
        assert samples.labels is not None, "tasks are coarser or other labels of labeled samples"
        found = labels_from_classes(self.tasks, self.splits.classes, samples.labels)
        table = {} if self.table is None else self.table.lookup(samples.names)
        return found | {name: labels for name, labels in table.items() if name != self.class_column}

    def _check_tasks(self) -> None:
        """Raises ValueError where further labels cannot be used, before anything is trained on or measured."""
        names = {*self.tasks, *(self.table.codes if self.table else ())} - {self.class_column}
        if bad := {"best", "class", "last", "z"} & names:
            raise ValueError(f"data.tasks, data.labels: {min(bad)} is a name of the report's own; rename it")
        parts = [part for part in (self.splits.train, self.splits.val, self.splits.test) if part.labels is not None]
        columns = [self.columns(part) for part in parts]
        listed = any((labels >= 0).any() for one in columns for labels in one.values())
        if self.table is not None and self.class_column is None and not listed:
            raise ValueError(self.table.lists_none(self.splits.train))

    def print_table_notes(self, splits: Splits) -> None:
        """Say what of the table of labels does not fit these samples."""
        if self.table is not None and rank() == 0:
            for note in self.table.notes(_names(splits)):
                print(f"note     {note}")


def _names(splits: Splits) -> list[str]:
    """Of all samples that have one."""
    parts = [part.names for part in (splits.train, splits.val, splits.test) if part is not None]
    return [name for names in parts if names is not None for name in names]
