"""Training steps of each modality on made batches, without a trainer: what precision and compilation change."""

import torch
from conftest import TINY, config
from item_runs import SMALL as PAIRS
from text_runs import ENCODERS, text_info
from text_runs import SMALL as TEXTS

from repel.data.pair import Pair
from repel.data.samples import DataInfo
from repel.engine.build import build_module
from repel.interactions.pairs import InteractionInfo
from repel.module import Contrastive

B, USERS, ITEMS = 16, 20, 12
WORDS = 30
NAMES = {
    "images": [*TINY, "encoder.width=8"],
    "bag": [*TEXTS, *ENCODERS["ngrams"], "head=mlp", "loss=ntxent", "negatives=uniform"],
    "transformer": [*TEXTS, *ENCODERS["transformer"], "encoder.dropout=0.0", "loss=ntxent", "negatives=uniform"],
    "table": [*PAIRS, "loss=infonce"],
    "lightgcn": [*PAIRS, "encoder=lightgcn", "loss=infonce"],
}


def module_of(name: str, *overrides: str) -> Contrastive:
    """The network and loss of a name, told of data that is made up."""
    module = build_module(config(*NAMES[name], *overrides))
    info = DataInfo(train_size=100)
    if name in ("bag", "transformer"):
        info = text_info(WORDS)
    if name in ("table", "lightgcn"):
        draws = torch.Generator().manual_seed(5)
        users = torch.arange(USERS).repeat_interleave(3)
        pairs = torch.stack([users, torch.randint(ITEMS, (len(users),), generator=draws)], 1)
        info = InteractionInfo(len(pairs), users=USERS, items=ITEMS, pairs=pairs)
    module.give_data_info(info)
    return module.train()


def batch_of(name: str, step: int) -> Pair:
    """A batch of B samples in two views; those of texts differ in length from step to step."""
    draws, ids = torch.Generator().manual_seed(step), torch.arange(B).expand(2, B)
    if name == "images":
        images = torch.randn(1, B, 1, 12, 12, generator=draws)
        return Pair(images + 0.3 * torch.randn(2, B, 1, 12, 12, generator=draws), ids, None)
    if name in ("bag", "transformer"):
        tokens = torch.randint(1, WORDS, (2, B, 4 + step % 4), generator=draws, dtype=torch.int32)
        return Pair(tokens.where(torch.rand(tokens.shape, generator=draws) < 0.8, tokens[:1]), ids, None)
    users, items = (torch.randint(n, (B,), generator=draws) for n in (USERS, ITEMS))
    nodes = torch.stack([users, USERS + items])
    return Pair(torch.stack([nodes, torch.zeros_like(nodes)], 2), nodes, None)


def losses_of(module: Contrastive, name: str, steps: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(steps,) the losses of a few steps, under autocast to a dtype where one is given."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    found = []
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss, _ = module.shared_step(batch_of(name, step))
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)
