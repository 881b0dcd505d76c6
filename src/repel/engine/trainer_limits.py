"""Options of the trainer that only the data can judge: batches and validation."""

from collections.abc import Iterator

from omegaconf import DictConfig

from repel.data.datamodule import PairData

__all__ = ["check_batches", "trainer_notes"]


def check_batches(options: DictConfig, data: PairData) -> None:
    """Raises ValueError where a fraction of the batches is none, or validation would come after an epoch's end."""
    batches, validation = data.batches_per_epoch(), len(data.val_dataloader())
    if batches < 1:
        key = "overfit_batches" if options.get("overfit_batches") else "limit_train_batches"
        raise ValueError(f"trainer.{key} leaves no batch in an epoch; raise it")
    share, interval = options.get("limit_val_batches", 1.0), options.get("val_check_interval", 1.0)
    if isinstance(share, float) and 0 < share < 1 and int(validation * share) < 1:
        raise ValueError(
            f"trainer.limit_val_batches={share} leaves none of {validation} validation batches; raise it, or 0 for none"
        )
    across = options.get("check_val_every_n_epoch", 1) is None or options.get("fast_dev_run")
    if isinstance(interval, int) and interval > batches and not across:
        raise ValueError(
            f"trainer.val_check_interval={interval} is more than the {batches} batches of an epoch; use fewer, or add "
            "trainer.check_val_every_n_epoch=null, which counts them across epochs"
        )


def trainer_notes(options: DictConfig, data: PairData) -> Iterator[str]:
    """On options that change what a run's numbers mean."""
    if overfit := options.get("overfit_batches"):
        batches = data.batches_per_epoch()
        yield (
            f"trainer.overfit_batches={overfit}: trains on the same {batches * data.batch_size} samples in every "
            "epoch, with new views, and without validation; the loss should fall, other numbers say nothing"
        )
    elif options.get("limit_val_batches") == 0:
        yield "trainer.limit_val_batches=0: nothing is validated, and the last epoch counts as the best"
