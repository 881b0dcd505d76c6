"""kNN accuracy on the validation split, after every epoch."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from repel.data.datamodule import pair_data
from repel.data.samples import Samples
from repel.evaluation.coverage import count_new
from repel.evaluation.feature_files import IN_MEMORY
from repel.evaluation.features import Encoded, encode, subset
from repel.evaluation.knn import predict_on_all_ranks
from repel.evaluation.protocol import accuracy
from repel.module import Contrastive

__all__ = ["ValidationKNN"]

FEW = 500  # training samples to compare with under trainer.fast_dev_run


class ValidationKNN(Callback):
    """Logs `val/knn_top1`: training samples are the bank, validation samples the queries.

    Nothing is logged without labels, or where no validation sample is of a class of the bank: it would be 0 in every
    epoch, and choose the first. Under trainer.limit_val_batches the queries are the samples of these batches.
    Their features h (M, F) stay in `features`, for other callbacks.

    Args:
        k, temperature: of the vote.
        bank: at most so many training samples, evenly spaced; None: all.
    """

    def __init__(self, k: int, temperature: float, bank: int | None):
        self.k, self.temperature, self.bank = k, temperature, bank
        self.features: Tensor | None = None

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(module, Contrastive)
        data = pair_data(trainer)
        val = _validated(trainer)
        val = val.labelled if data.labelled else val
        self.features, places = encode(module.encoder, val, data.normalize, module.device)
        if not data.labelled:
            return
        train = subset(data.splits.train.labelled, FEW if trainer.fast_dev_run else self.bank)  # type: ignore[attr-defined]
        assert train.labels is not None, "data.labelled says so"
        assert val.labels is not None, "data.labelled says so"
        if count_new(train.labels, val.labels) == len(val):
            return
        bank, bank_places = encode(module.encoder, train, data.normalize, module.device)
        labels, truth = train.labels.to(bank.device)[bank_places], val.labels.to(bank.device)[places]
        if trainer.current_epoch + 1 == trainer.max_epochs and 4 * bank.numel() <= IN_MEMORY:
            data.encoded = [Encoded(train, bank, bank_places), Encoded(val, self.features, places)]  # for the report
        predicted = predict_on_all_ranks(bank, labels, self.features, self.k, self.temperature)
        module.log("val/knn_top1", accuracy(predicted, truth))


def _validated(trainer: Trainer) -> Samples:
    """The validation samples whose loss was measured."""
    loader = trainer.val_dataloaders
    assert loader is not None, "it is validating"
    val, batches = pair_data(trainer).splits.val, loader.sampler.pieces
    measured = int(trainer.num_val_batches[0])
    return val if measured >= len(batches) else val[torch.cat(batches[:measured]).sort().values]
