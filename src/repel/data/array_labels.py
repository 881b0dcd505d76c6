"""Labels of samples in arrays: whole numbers, texts, one-hot rows."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["encode_labels"]


def encode_labels(labels: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], list[str]]:
    """Labels of each split -> (N,) int64, -1 where unknown; and the names of the classes.

    Args:
        labels: (N,) or (N, 1) numbers or texts, or (N, K) one-hot rows.

    Raises:
        ValueError: labels that are none.
    """
    plain = {split: _one_column(np.asarray(array)) for split, array in labels.items()}
    values = np.unique(np.concatenate([column[known] for column, known in plain.values()]))
    codes = {
        split: torch.from_numpy(np.where(known, np.searchsorted(values, column), -1).astype(np.int64))
        for split, (column, known) in plain.items()
    }
    return codes, [str(value) for value in values.tolist()]


def _one_column(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) labels as whole numbers or texts, and which are known."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        if array.dtype.kind not in "biuf" or not (np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all()):
            raise ValueError(f"labels of shape {array.shape} must be one-hot rows, or one number or text a sample")
        array = array.argmax(1)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind == "U":
        return array, array != ""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"labels must be numbers or texts, these are of type {array.dtype}")
    known = np.isfinite(array) & (array >= 0)
    whole = np.where(known, array, 0).astype(np.int64)
    if (whole[known] != array[known]).any():
        raise ValueError("labels must be whole numbers or texts; these are measurements, which are no classes")
    return whole, known
