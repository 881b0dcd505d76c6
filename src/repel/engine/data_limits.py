"""Options that can only be checked against the data, before training."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from repel.data.datamodule import PairData
from repel.data.views import Viewed
from repel.engine.outcomes import MORE_SHARED_MEMORY
from repel.engine.trainer_limits import check_batches
from repel.losses.base import Loss
from repel.losses.joint import Joint
from repel.module import Contrastive

__all__ = ["check_data", "check_shared_memory", "check_views"]


def check_data(cfg: DictConfig, module: Contrastive, data: PairData, world: int) -> None:
    """Options that can only be checked against the data.

    Raises:
        ValueError: one line that names the key.
    """
    batch_size, train, val = cfg.data.batch_size, len(data.splits.train), len(data.splits.val)
    if not train:
        raise ValueError("no training samples are left after validation and test were held out; training needs more")
    if batch_size > train:
        raise ValueError(f"data.batch_size={batch_size} is larger than the {train} training samples; use a smaller one")
    if val < 2 * world:
        raise ValueError(f"{val} validation samples are too few for {world} ranks; raise data.val_fraction or add some")
    check_batches(cfg.trainer, data)
    check_shared_memory(cfg, data.splits.train.workers)
    if module.loss.supervised and not data.labelled:
        one = "" if data.single_class is None else f" ({data.single_class}, the class of all training samples, is none)"
        raise ValueError(
            f"the loss or its negatives use labels, and this data has none{one}; choose others, or other data"
        )


def check_views(cfg: DictConfig, loss: Loss, made: Viewed | None) -> None:
    """Raises ValueError where a loss asks for views, or for a catalog, that samples do not have.

    Args:
        made: the views of some samples, where these can be made before training.
    """
    count = OmegaConf.select(cfg, "views.n") if made is None else len(made.views)
    if isinstance(loss, Joint) and count:
        loss.check_views(count)
    brings = made is not None and made.catalog is not None
    if loss.takes_catalog and not brings:
        raise ValueError(
            "loss.candidates=catalog compares with all items, and these views bring none; choose other candidates, or, "
            "for users and items, views=user_item with views.catalog=true"
        )
    if brings and not loss.takes_catalog:
        raise ValueError(
            "views.catalog=true brings all items as candidates: set loss.candidates=catalog, or leave it out"
        )


def check_shared_memory(cfg: DictConfig, workers: int, place: Path = Path("/dev/shm")) -> None:
    """Raises ValueError where the data workers' batches do not fit: a worker would fail, and training wait for it."""
    size, channels, views = (OmegaConf.select(cfg, key) for key in ("data.image_size", "data.channels", "views.n"))
    if not (workers and size and channels and views and place.is_dir()):
        return
    pixels = math.prod(size) if isinstance(size, Sequence) else size**2
    # of all ranks on this machine, each with these workers; a worker holds a batch at least
    needed = workers * (cfg.data.batch_size // cfg.trainer.num_nodes) * views * channels * pixels
    if (free := shutil.disk_usage(place).free) < needed:
        raise ValueError(
            f"{place} has {free / 2**20:,.1f} MB free, and the batches of data.workers={workers} need at least "
            f"{needed / 2**20:,.1f} MB there: {MORE_SHARED_MEMORY}"
        )
