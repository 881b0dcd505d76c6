"""Which epoch is the best: by val/knn_top1, among equals by val/loss; and what a resumed run compares with."""

import math
from types import SimpleNamespace

import pytest
import torch

from repel.engine.checkpoint_callbacks import BestCheckpoint


def saved(callback: BestCheckpoint, epochs) -> list[int]:
    """Epochs after which best.ckpt was written; epochs: (val/knn_top1 or None, val/loss) of each."""
    written, seen = [], []
    trainer = SimpleNamespace(
        default_root_dir=".",
        sanity_checking=False,
        strategy=SimpleNamespace(broadcast=lambda value: value),
        save_checkpoint=lambda path: written.append(len(seen)),
    )
    for knn, loss in epochs:
        seen.append(loss)
        trainer.callback_metrics = {"val/loss": torch.tensor(loss)}
        if knn is not None:
            trainer.callback_metrics["val/knn_top1"] = torch.tensor(knn)
        callback.on_validation_end(trainer, None)
    return written


@pytest.mark.parametrize(
    ("epochs", "best"),
    [
        ([(1.0, 3.0), (1.0, 2.0), (1.0, 2.5)], 2),  # a metric that says nothing: the loss chooses
        ([(0.5, 3.0), (0.7, 2.0), (0.7, 1.5), (0.6, 1.0)], 3),  # of equals the lowest loss
        ([(0.5, 1.0), (0.7, 2.0), (0.7, 2.5), (0.7, 2.0)], 2),  # of equals in both, the first
        ([(0.7, 3.0), (0.5, 1.0)], 1),  # the loss alone chooses nothing where there is a metric
        ([(math.nan, 1.0), (0.1, 2.0)], 2),
        ([(0.5, math.nan), (0.5, 2.0)], 2),
        ([(None, 3.0), (None, 2.0), (None, 2.5)], 2),
    ],
)
def test_the_best_epoch(epochs, best):
    assert saved(BestCheckpoint(), epochs)[-1] == best


def test_ndcg_chooses_where_it_is_measured():
    callback, written, epochs = BestCheckpoint(), [], [(0.2, 1.0), (0.4, 2.0), (0.3, 0.5)]
    trainer = SimpleNamespace(default_root_dir=".", sanity_checking=False,
                              strategy=SimpleNamespace(broadcast=lambda value: value),
                              save_checkpoint=lambda path: written.append(callback.best))  # fmt: skip
    for ndcg, loss in epochs:
        trainer.callback_metrics = {"val/ndcg_at_20": torch.tensor(ndcg), "val/loss": torch.tensor(loss)}
        callback.on_validation_end(trainer, None)
    assert written == pytest.approx([0.2, 0.4])
    assert callback.state_dict()["metric"] == "val/ndcg_at_20"


def test_a_resumed_run_goes_on_with_the_same_comparison():
    before, after = BestCheckpoint(), BestCheckpoint()
    saved(before, [(0.7, 2.0)])
    after.load_state_dict(before.state_dict())
    assert saved(after, [(0.7, 2.5), (0.6, 1.0)]) == []
    assert saved(after, [(0.7, 1.5)]) == [1]


def test_what_another_metric_chose_is_not_compared_with():
    """kNN of one class, 1.0, is more than any loss counts: without this the first epoch stays the best for ever."""
    callback = BestCheckpoint()
    saved(callback, [(1.0, 3.0)])
    assert saved(callback, [(None, 2.9), (None, 3.1), (None, 2.8)]) == [1, 3]


@pytest.mark.parametrize(
    ("best", "epochs", "written"),
    [
        (0.7, [(0.7, 1.0), (0.8, 2.0)], [2]),  # by kNN as before; a tie stays with the first
        (-2.0, [(None, 2.5), (None, 2.4)], [1, 2]),  # val/loss was of other batches
        (1.0, [(None, 2.5), (None, 3.0)], [1]),  # by kNN of one class, and by the loss from now on
    ],
)
def test_runs_of_the_first_edition_go_on(best, epochs, written):
    callback = BestCheckpoint()
    callback.load_state_dict({"best": best})
    assert saved(callback, epochs) == written
