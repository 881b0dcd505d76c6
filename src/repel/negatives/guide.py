"""Negatives that a guide model, another one than the one that is trained, takes for positives are dropped."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repel.negatives.strategy import LogitBlock, Strategy

ROUNDING = 1e-6  # of a cosine in float32: a candidate as similar as the positive is kept


class Guide(Strategy):
    """Drop candidates that a guide model finds more similar to the anchor than its positive: likely false negatives.

        w_ij = -inf where g_ij > g_ip - margin, else 0,     g: the guide's cosines, with several positives their mean

    Solatorio 2024 (GISTEmbed), arXiv:2402.16829, sec. 3; with a relative margin g_ij > g_ip - margin |g_ip|, as in
    sentence-transformers. The guide's embeddings are computed once, before training, for the entities that views show
    (`ids` of a loss). All candidates are looked up: the batch's, the queue's and explicit negatives. What is not in the
    table is kept; `negatives/guide_known` is the share of anchors that are in it with their positives,
    `negatives/guide_dropped` the share of their negatives that are dropped. Where the views of a sample show one
    entity, g_ip is 1: set a margin.

    Args:
        embeddings: an .npz file with `ids` (E,), whole numbers, and `embeddings` (E, G), any numbers; read when
            training starts, also when a run resumes: checkpoints do not hold it. None: set_embeddings() is called.
        margin: 0 or more, in units of the cosine, or of the positive's cosine where `relative`.
        relative: whether the margin is relative.

    Raises:
        ValueError: margin is below 0; the file is none of this kind; there are no embeddings, or no ids (when called).

    >>> guide = Guide().set_embeddings(torch.tensor([7, 8, 9]), torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.9, 0.1]]))
    >>> block = LogitBlock(torch.zeros(1, 3), torch.zeros(1), torch.ones(1, 3).bool(), 1.0)
    >>> ids = {"row_ids": torch.tensor([7]), "positive_ids": torch.tensor([[8]]), "col_ids": torch.tensor([9, 8, 5])}
    >>> guide.weights(block._replace(**ids))
    tensor([[-inf, 0., 0.]])
    """

    tilewise = True

    def __init__(self, embeddings: str | None = None, margin: float = 0.0, relative: bool = False):
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"negatives.margin must be >= 0, got {margin}")
        self.embeddings, self.margin, self.relative = embeddings, margin, relative
        # no buffers: they would be in every checkpoint, and DDP would send them to all ranks in every step
        self.table: tuple[Tensor, Tensor] | None = None
        self.shares: Tensor | float = 0.0  # known and dropped, (2,), summed over blocks since statistics()
        self.blocks = 0

    def set_embeddings(self, ids: Tensor, embeddings: Tensor) -> "Guide":
        """The guide's embeddings (E, G) of entities (E,); of an entity that is named twice, the first."""
        ids, order = torch.sort(ids, stable=True)
        first = torch.cat([torch.ones_like(ids[:1], dtype=torch.bool), ids[1:] != ids[:-1]])
        self.table = ids[first], embeddings[order[first]]
        return self

    def on_data(self, info: Any) -> None:
        if self.embeddings is None:
            raise ValueError("negatives=guide needs embeddings of a guide model: set negatives.embeddings=FILE.npz")
        self.set_embeddings(*_read(Path(self.embeddings)))

    def weights(self, block: LogitBlock) -> Tensor:
        if block.row_ids is None or block.positive_ids is None or block.col_ids is None:
            raise ValueError("negatives=guide finds embeddings by ids: call the loss with ids")
        anchors, anchor_known = self._look_up(block.row_ids, block.logits)
        positives, positive_known = self._look_up(block.positive_ids, block.logits)
        candidates, known = self._look_up(block.col_ids, block.logits)
        bound = (anchors[:, None] * positives).sum(-1).mean(1)
        bound = bound - self.margin * (bound.abs() if self.relative else 1) + ROUNDING
        rows = anchor_known & positive_known.all(1)
        drop = (anchors @ candidates.T > bound[:, None]) & rows[:, None] & known
        if self.training:
            dropped, negatives = (drop & block.negative).sum(), (block.negative & rows[:, None]).sum()
            shares = torch.stack([rows.float().mean(), dropped / negatives.clamp(min=1)])
            self.shares, self.blocks = self.shares + shares, self.blocks + 1
        return torch.zeros_like(block.logits).masked_fill(drop, -torch.inf)

    def _look_up(self, ids: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (..., G) in the type of `like`, of entities (...), and which of these are in the table."""
        if self.table is None:
            raise ValueError("negatives=guide has no embeddings: set negatives.embeddings=FILE.npz")
        if self.table[0].device != like.device:  # once
            entities, embeddings = (part.to(like.device, non_blocking=True) for part in self.table)
            self.table = entities, embeddings
        entities, embeddings = self.table
        places = torch.searchsorted(entities, ids.contiguous()).clamp(max=len(entities) - 1)
        return F.normalize(embeddings[places].to(like.dtype), dim=-1, eps=1e-8), entities[places] == ids

    def statistics(self) -> dict[str, Tensor]:
        if not isinstance(self.shares, Tensor):
            return {}
        known, dropped = self.shares / self.blocks
        self.shares, self.blocks = 0.0, 0
        return {"negatives/guide_known": known, "negatives/guide_dropped": dropped}


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """ids (E,) and embeddings (E, G) of a file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, embeddings = file["ids"], file["embeddings"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"negatives.embeddings={path}: no .npz file with arrays `ids` and `embeddings` can be read there ({error})"
        ) from error
    if ids.ndim != 1 or embeddings.ndim != 2 or len(ids) != len(embeddings) or not len(ids):
        raise ValueError(
            f"negatives.embeddings={path}: ids must be (E,) and embeddings (E, G), got {ids.shape}, {embeddings.shape}"
        )
    if ids.dtype.kind not in "iu" or embeddings.dtype.kind != "f" or not np.isfinite(embeddings).all():
        raise ValueError(f"negatives.embeddings={path}: ids must be whole numbers, embeddings finite ones")
    return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(embeddings)
