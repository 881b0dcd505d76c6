"""NDCG and recall of the validation pairs, all items ranked, after every epoch."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from repel.data.datamodule import pair_data
from repel.evaluation.features import encode, evenly_spaced
from repel.evaluation.item_rankings import rank_all
from repel.evaluation.ranking import UserItemPairs, pairs_of
from repel.evaluation.top_items import CosineScorer, KnownItems
from repel.module import Contrastive

__all__ = ["ValidationRanking"]

K = 20
FEW = 500  # users under trainer.fast_dev_run


class ValidationRanking(Callback):
    """Logs `val/ndcg_at_20` and `val/recall_at_20`: all items are ranked, each user's training items left out.

    All users and items are encoded, once; their features h stay in `user_features` (users, F) and `item_features`
    (items, F), for other callbacks. trainer.limit_val_batches concerns the loss alone.

    Args:
        users: at most so many of those with a validation pair, evenly spaced; None: all.

    Raises:
        ValueError: users is below 1.
    """

    def __init__(self, users: int | None = None):
        if users is not None and users < 1:
            raise ValueError(f"callbacks.ranking.users must be null or at least 1, got {users}")
        self.users = users
        self.user_features: Tensor | None = None
        self.item_features: Tensor | None = None
        self.known: tuple[KnownItems, KnownItems] | None = None  # training and validation pairs, sorted once

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(module, Contrastive)
        data = pair_data(trainer)
        train, val = (pairs_of(part, "callbacks.ranking") for part in (data.splits.train, data.splits.val))
        self.user_features, self.item_features = (
            encode(module.encoder, entities, data.normalize, module.device)[0]
            for entities in (train.store.all_users(), train.store.all_items())
        )
        trained, wanted = self.known = self.known or _known(train, val, module.device)
        users = wanted.counts.nonzero().squeeze(1)
        limit = FEW if trainer.fast_dev_run else self.users  # type: ignore[attr-defined]
        users = users[evenly_spaced(len(users), len(users) if limit is None else limit).to(users.device)]
        scorer = CosineScorer(self.user_features, self.item_features)
        found = rank_all(scorer, trained, wanted, [K], K, users=users).metrics
        for name in ("ndcg", "recall"):
            module.log(f"val/{name}_at_{K}", found[f"{name}_at_{K}"].value)


def _known(train: UserItemPairs, val: UserItemPairs, device: torch.device) -> tuple[KnownItems, KnownItems]:
    first, second = (KnownItems.of(pairs.x, pairs.store.users).to(device) for pairs in (train, val))
    return first, second
