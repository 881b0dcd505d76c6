"""Training, validation and test samples: what the data does not split itself is held out here."""

from dataclasses import replace
from typing import TypeVar

import torch

from repel.base import seeding
from repel.data.labels import Table
from repel.data.samples import CompleteSplits, Samples, Splits

__all__ = ["held_out", "label_by_table", "split_off", "without_single_class"]

AnySplits = TypeVar("AnySplits", Splits, CompleteSplits)


def held_out(splits: Splits, val_fraction: float, test_fraction: float, seed: int) -> CompleteSplits:
    """Splits with a test and a validation set, taken from train where missing, the same share of every class."""
    train, val, test = splits.train, splits.val, splits.test
    if test is None:
        train, test = split_off(train, test_fraction, seed, 0)
    if val is None:
        train, val = split_off(train, val_fraction, seed, 1)
    return CompleteSplits(train, test, val, splits.classes, splits.skipped)


def split_off(samples: Samples, fraction: float, seed: int, part: int) -> tuple[Samples, Samples]:
    """(rest, held out), the same share of every class. Samples without a label stay in rest, unless none has one."""
    labels = torch.zeros(len(samples), dtype=torch.int64) if samples.labels is None else samples.labels
    shuffled = torch.randperm(len(samples), generator=seeding.generator(seed, seeding.SPLIT, part))
    shuffled = shuffled[labels[shuffled] >= 0]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # evenly spaced along the classes in a row: fair also to classes so small that a share of each would round to none
    count = max(1, round(len(by_class) * fraction))
    places = ((torch.arange(count) + 0.5) * len(by_class) / count).long()
    out = torch.zeros(len(samples), dtype=torch.bool)
    out[by_class[places]] = True
    return samples[~out], samples[out]


def without_single_class(splits: CompleteSplits) -> tuple[CompleteSplits, str | None]:
    """Splits without labels where all training samples are of one class, and its name: one class is no label."""
    labels = splits.train.labels
    found = [] if labels is None else labels[labels >= 0].unique().tolist()
    if len(found) != 1:
        return splits, None
    train, test, val = (part.with_labels(None) for part in (splits.train, splits.test, splits.val))
    name = splits.classes[found[0]] if splits.classes else str(found[0])
    return replace(splits, train=train, test=test, val=val, classes=[]), name


def label_by_table(splits: AnySplits, table: Table) -> AnySplits:
    """Splits of unlabeled samples, labeled by the first column of a table."""
    column, classes = next(iter(table.classes.items()))
    if (table.lookup(splits.train.names)[column] < 0).all():
        raise ValueError(table.lists_none(splits.train))

    def labelled(part: Samples) -> Samples:
        return part.with_labels(table.lookup(part.names)[column])

    test, val = (None if part is None else labelled(part) for part in (splits.test, splits.val))
    return replace(splits, train=labelled(splits.train), test=test, val=val, classes=classes)
