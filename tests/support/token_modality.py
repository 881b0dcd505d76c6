"""A modality without pixels: short texts as token ids, with explicit negatives and entities that repeat.

What a second modality has to bring, in one file: samples, views, an encoder and, here, a loss that takes negatives.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import ranks
import torch
from torch import Tensor, nn

from repel.base.dropout import CountedDropout
from repel.base.sized import SizedByData
from repel.data.datamodule import PairData
from repel.data.memory import TensorSamples
from repel.data.samples import DataInfo, Fetched, Splits
from repel.data.views import Viewed
from repel.losses.base import Loss, unit
from repel.model.anneal import Anneal
from repel.model.ema import EMA
from repel.model.optim import constant
from repel.module import Contrastive

VOCABULARY, LENGTH, USERS = 50, 6, 10


@dataclass(frozen=True)
class TokenInfo(DataInfo):
    """counts: (VOCABULARY,), how often each token is used in the training texts."""

    counts: Tensor | None = None


@dataclass(frozen=True)
class Tokens(TensorSamples):
    """x (N, LENGTH) int64, 0 where a text is shorter; users (N,), who repeat.

    hard: (N, M, LENGTH), explicit negatives; hard_ids: (N, M), their entities.
    """

    users: Tensor | None = None
    hard: Tensor | None = None
    hard_ids: Tensor | None = None

    @property
    def description(self) -> str:
        return f"texts of up to {LENGTH} tokens"

    @property
    def modality(self) -> SimpleNamespace:
        """What training asks of it; a report asks for more, see evaluation/modality.py."""
        return SimpleNamespace(noun="texts", sides=())

    def fetch(self, places, draws) -> Fetched:
        items = USERS + self.x[places, 0]  # the entity of a text: its first token
        ids = torch.stack([self.users[places], items])
        return Fetched(places, (self.x[places], self.hard[places]), ids=ids, negative_ids=self.hard_ids[places].T)

    def info(self) -> TokenInfo:
        return TokenInfo(len(self), self.hard.shape[1], self.x.flatten().bincount(minlength=VOCABULARY))


def tokens(n: int = 60) -> Tokens:
    draws = torch.Generator().manual_seed(0)
    x = torch.randint(1, VOCABULARY, (n, LENGTH), generator=draws)
    lengths = torch.randint(2, LENGTH + 1, (n, 1), generator=draws)
    hard = x[torch.randint(n, (n, 2), generator=draws)]
    users = torch.randint(USERS, (n,), generator=draws)
    return Tokens(x * (torch.arange(LENGTH) < lengths), users=users, hard=hard, hard_ids=USERS + hard[..., 0])


class DropTokens:
    """Two views, each without one of the tokens after the first."""

    def draw(self, n, generator):
        return [{"place": torch.randint(1, LENGTH, (n,), generator=generator)} for _ in range(2)]

    def apply(self, x, params) -> Viewed:
        texts, hard = x
        dropped = [p["place"].to(texts.device)[:, None] == torch.arange(LENGTH, device=texts.device) for p in params]
        return Viewed(torch.stack([texts.masked_fill(d, 0) for d in dropped]), negatives=hard.transpose(0, 1))


class BagOfTokens(SizedByData):
    """The mean of token vectors, rare tokens counting more: what is rare it must be told."""

    out_features = 5

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.dropout = CountedDropout(dropout)
        self.table = nn.Embedding(VOCABULARY, self.out_features, padding_idx=0)
        self.register_buffer("train_size", torch.zeros((), dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        self.calls = 0

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, TokenInfo)
        self.train_size.fill_(info.train_size)
        self.counts = info.counts
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.int64, "token ids stay integers"
        weight = self.train_size / (1 + self.counts[x]) * (x > 0)
        return torch.einsum("bl,blf->bf", weight.to(self.table.weight), self.dropout(self.table(x))) / LENGTH


class InfoNCEWithNegatives(Loss):
    """Anchors of view 0 against view 1 and explicit negatives, less those of an entity of the anchor's own sample."""

    takes_negatives = True

    def forward(self, z, labels, ids, local, target=None, negatives=None, negative_ids=None) -> Tensor:
        ids = ids if ids.ndim == 2 else ids.expand(len(z), -1)
        anchors, keys = unit(z[0]), unit(z[1] if target is None else target[1])
        candidates, entities = keys, ids[1]
        if negatives is not None:  # the check of whether the loss is at chance brings none
            candidates = torch.cat([keys, unit(negatives).flatten(0, 1)])
            entities = torch.cat([entities, negative_ids.flatten()])
        own = torch.stack([(ids[v][:, None] == entities) for v in range(len(ids))]).any(0)
        logits = (anchors @ candidates.T / 0.2).masked_fill(own, -torch.inf)
        positive = (anchors * keys).sum(1) / 0.2
        return (torch.cat([positive[:, None], logits], 1).logsumexp(1) - positive)[local].mean()


def token_data(samples: Tokens | None = None) -> PairData:
    splits = Splits(tokens() if samples is None else samples)
    return PairData(
        lambda: splits, batch_size=8, val_fraction=0.2, test_fraction=0.1, split_seed=0, tasks={}, labels=None,
        device_cache=False, views=DropTokens(), normalize=lambda x: x, seed=1,
    )  # fmt: skip


def token_module(
    loss: Loss | None = None, target: bool = False, predictor: nn.Module | None = None, dropout: float = 0.0
) -> Contrastive:
    torch.manual_seed(0)
    encoder, head = BagOfTokens(dropout), nn.Linear(5, 4)

    return Contrastive(
        encoder, head, predictor, loss or InfoNCEWithNegatives(), EMA(encoder, head, 0.9) if target else None,
        Anneal(None, 1, "linear"), partial(torch.optim.Adam, lr=0.05, weight_decay=0.0),
        partial(constant, warmup_epochs=0), seed=0,
    )  # fmt: skip


def fit_tokens(cfg, folder: Path, resume: bool = False) -> None:
    """engine.fit on these parts, with dropout."""
    from repel.engine import fit

    def module(cfg) -> Contrastive:
        return token_module(target=bool(cfg.target), dropout=0.3)

    parts = {"build_data": lambda cfg, learned=None: token_data(), "build_module": module}
    with mock.patch.multiple(fit, **parts):
        fit.fit(cfg, folder, resume)


def fit_tokens_on_ranks(cfg, folder: Path, world: int) -> None:
    """The same, each rank in a process of its own."""
    on_ranks(fit_tokens, cfg, folder, world)


def on_ranks(task, cfg, folder: Path, world: int) -> None:
    """task(cfg, folder) on each rank, in processes of their own."""
    processes = [ranks.forked(_rank_main, task, cfg, folder, rank, world) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world


def _rank_main(task, cfg, folder: Path, rank: int, world: int) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    os.environ |= {name: str(value) for name, value in place.items()} | {"GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    task(cfg, folder)
    os._exit(0)
