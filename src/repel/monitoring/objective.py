"""Which metric chooses the best checkpoint, and is what a sweep maximizes; and by which runs are compared."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHOOSING", "COMPARED", "objective", "objective_name"]

CHOOSING = ("val/ndcg_at_20", "val/knn_top1")  # the first that is measured; else val/loss, of which less is better
COMPARED = ("test/ndcg_at_20", "test/knn_top1")  # likewise, of finished runs


def objective_name(metrics: Collection[str]) -> str:
    """The metric that chooses, of those that are there.

    >>> objective_name(["val/loss", "val/knn_top1"]), objective_name(["val/loss"])
    ('val/knn_top1', 'val/loss')
    """
    return next((name for name in CHOOSING if name in metrics), "val/loss")


def objective(metrics: Mapping[str, "Tensor"]) -> float:
    """Its value, more being better: the loss counts negative."""
    name = objective_name(metrics)
    return -float(metrics[name]) if name == "val/loss" else float(metrics[name])
