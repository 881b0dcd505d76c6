"""Training, validation and test samples: what the data does not split itself is held out here."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from repel.base import seeding
from repel.data.identity import mixed
from repel.data.labels import Table
from repel.data.samples import CompleteSplits, Samples, Splits

__all__ = ["held_out", "label_by_table", "map_splits", "split_off", "uniform", "without_single_class"]

AnySplits = TypeVar("AnySplits", Splits, CompleteSplits)

FEWEST = 2  # samples that are held out of a set with names, however small their share


def map_splits(function: Callable[[Samples], Samples], splits: AnySplits) -> AnySplits:
    """The splits with what the function makes of each that is there."""
    test, val = (None if part is None else function(part) for part in (splits.test, splits.val))
    return replace(splits, train=function(splits.train), test=test, val=val)


def held_out(
    splits: Splits, val_fraction: float, test_fraction: float, seed: int, split_by: str = "place"
) -> CompleteSplits:
    """Splits with a test and a validation set, taken from train where missing.

    Args:
        split_by: `name`: each sample by a hash of its own name, so that one that is added or removed moves no other.
            `place`: by its place among all, the same share of every class; so are samples without names.
    """
    train, val, test = splits.train, splits.val, splits.test
    if test is None:
        train, test = split_off(train, test_fraction, seed, 0, split_by)
    if val is None:
        train, val = split_off(train, val_fraction, seed, 1, split_by)
    return CompleteSplits(train, test, val, splits.classes, splits.skipped)


def split_off(
    samples: Samples, fraction: float, seed: int, part: int, split_by: str = "place"
) -> tuple[Samples, Samples]:
    """(rest, held out). Samples without a label stay in rest, unless none has one."""
    keys = samples.keys() if split_by == "name" else None
    out = _by_place(samples, fraction, seed, part) if keys is None else _by_key(samples, keys, fraction, seed, part)
    return samples[~out], samples[out]


def _by_key(samples: Samples, keys: Tensor, fraction: float, seed: int, part: int) -> Tensor:
    """(N,) bool: whose draw is below the fraction, each sample's draw depending on its key alone.

    As TensorFlow's retrain.py has it: a file stays in its split when others are added.
    """
    draws = torch.from_numpy(uniform(keys.numpy(), seeding.mix(seed, seeding.SPLIT, part)))
    if samples.labels is not None:
        draws[samples.labels < 0] = torch.inf
    out = draws < fraction
    out |= torch.isin(draws, draws.sort().values[:FEWEST])  # by draws, not places: equal texts have one
    return out & draws.isfinite()


def uniform(keys: np.ndarray, stream: int) -> np.ndarray:
    """(N,) float64 in [0, 1) of int64 keys: a draw of each that depends on its key alone."""
    return (mixed(keys.view(np.uint64) ^ np.uint64(stream)) >> np.uint64(11)) / 2**53


def _by_place(samples: Samples, fraction: float, seed: int, part: int) -> Tensor:
    """(N,) bool: drawn from all, the same share of every class."""
    labels = torch.zeros(len(samples), dtype=torch.int64) if samples.labels is None else samples.labels
    shuffled = torch.randperm(len(samples), generator=seeding.generator(seed, seeding.SPLIT, part))
    shuffled = shuffled[labels[shuffled] >= 0]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # evenly spaced along the classes in a row: fair also to classes so small that a share of each would round to none
    count = max(1, round(len(by_class) * fraction))
    places = ((torch.arange(count) + 0.5) * len(by_class) / count).long()
    out = torch.zeros(len(samples), dtype=torch.bool)
    out[by_class[places]] = True
    return out


def without_single_class(splits: CompleteSplits, table: Table | None) -> tuple[CompleteSplits, str | None, str | None]:
    """Splits whose labels tell training samples apart, or without labels: one class is no label.

    Where all training samples are of one class, the first column of a table becomes the class, if there is one; which
    samples are in which split stays the same.

    Returns:
        The splits, the name of the only class that was left out, and the table's column that became the class.
    """
    labels = splits.train.labels
    found = [] if labels is None else labels[labels >= 0].unique().tolist()
    if len(found) != 1:
        return splits, None, None
    name = splits.classes[found[0]] if splits.classes else str(found[0])
    bare = replace(map_splits(lambda part: part.with_labels(None), splits), classes=[])
    if table is None:
        return bare, name, None
    labelled, only, _ = without_single_class(label_by_table(bare, table), None)
    return labelled, only, next(iter(table.codes))


def label_by_table(splits: AnySplits, table: Table) -> AnySplits:
    """Splits of unlabeled samples, labeled by the first column of a table."""
    column, classes = next(iter(table.classes.items()))
    if (table.lookup(splits.train.names)[column] < 0).all():
        raise ValueError(table.lists_none(splits.train))
    labelled = map_splits(lambda part: part.with_labels(table.lookup(part.names)[column]), splits)
    return replace(labelled, classes=classes)
