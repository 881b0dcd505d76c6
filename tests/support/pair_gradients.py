"""Gradients of losses with strategies on users and items, on several ranks: real processes, gloo, float64."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from loss_cases import DIM, PAIRS, make, rowwise
from rank_processes import run_ranks

from repel.base.collectives import share
from repel.base.dropout import counted_parts
from repel.data.pair import Pair
from repel.data.samples import give_info
from repel.data.views import slice_params
from repel.interactions.encoders import Table
from repel.interactions.item_texts import ItemTexts
from repel.interactions.lightgcn import LightGCN
from repel.interactions.pairs import InteractionInfo, PairBatch
from repel.interactions.two_tower import TwoTower
from repel.interactions.views import PairViews, TowerViews
from repel.losses import InfoNCE, Joint, Loss, NTXent, Queue
from repel.model.anneal import Anneal
from repel.model.ema import EMA
from repel.model.optim import constant
from repel.module import Contrastive
from repel.negatives import Chain, Guide, Hardest, Known, OwnNegatives, Popularity, Random, Tilt
from repel.text.learned_tokens import learned_tokens
from repel.text.transformer import TransformerEncoder

USERS, ITEMS, NODES = 5, 7, 12
# of one batch: a user, an item and a pair that repeat, on other ranks, too; more pairs are only known
BATCH = torch.tensor([[0, 1], [0, 4], [1, 1], [2, 6], [3, 0], [2, 6], [4, 3], [0, 5]])
TOTAL = len(BATCH)
KNOWN = torch.unique(torch.cat([BATCH, torch.tensor([[1, 4], [3, 1], [4, 6], [2, 0], [3, 2]])]), dim=0)
TEXTS = ["red bird", "a bird", "", "red sea", "the blue sea", "a", "blue"]
INFO = InteractionInfo(
    len(KNOWN), users=USERS, items=ITEMS, pairs=KNOWN.int(), item_texts=ItemTexts(TEXTS, learned_tokens)
)
# pairs have no labels; explicit negatives are drawn for the losses that take them
ALLOWED = [(loss, strategy) for loss, strategy in PAIRS if loss not in ("supcon", "joint")
           and (strategy != "own_negatives" or make(loss).takes_negatives)]  # fmt: skip


def sgl(main: Loss) -> Joint:
    """Users and items, each against its own kind in another graph, beside the pair."""
    sides = {name: {"loss": InfoNCE(temperature=0.3), "views": views, "weight": 0.2}
             for name, views in (("users", [2, 3]), ("items", [4, 5]))}  # fmt: skip
    return Joint({"pair": {"loss": main, "views": [0, 1]}, **sides})


def exact(**options) -> InfoNCE:
    return InfoNCE(candidates="catalog", symmetric=False, **options)


def items_of(**options) -> InfoNCE:
    return InfoNCE(symmetric=False, **options)


GRAPHS = [["user", 1], ["user", 2], ["item", 1], ["item", 2]]
# name -> loss, options of the views, whether there is a target; the encoder is LightGCN with graphs, with texts two
# towers, of which the items' has a transformer with dropout
METHODS = {
    "sgl": (lambda: sgl(InfoNCE(negatives=Chain([Known(), Popularity()]))), {"further": GRAPHS}, False),
    "catalog": (lambda: exact(negatives=Known()), {"catalog": True}, False),
    "catalog, target": (lambda: exact(learn_temperature=True), {"catalog": True}, True),
    "catalog, sgl": (lambda: sgl(exact()), {"catalog": True, "further": GRAPHS}, False),
    "bpr": (lambda: items_of(negatives=OwnNegatives(only=True)), {"negatives": 1}, False),
    "dns": (lambda: items_of(negatives=Chain([Random(3), Hardest()])), {"negatives": 2}, False),
    "queue": (lambda: items_of(negatives=Popularity(), queue=Queue(6, DIM)), {}, True),
    "all": (lambda: NTXent(negatives=Chain([Known(), Tilt()])), {}, False),
    "texts": (lambda: items_of(negatives=Popularity()), {"negatives": 1}, False),
    "texts, catalog": (lambda: exact(negatives=Known()), {"catalog": True}, False),
    "texts, target": (lambda: InfoNCE(), {}, True),
}


def made(case) -> tuple[Contrastive, PairViews]:
    """A module that knows the data, and its views, of the name of a method or of a loss with a strategy."""
    torch.manual_seed(0)
    if isinstance(case, str):
        of, options, momentum = METHODS[case]
        loss = of()
    else:
        loss, momentum = make(*case), False
        options = {"negatives": 2 * loss.takes_negatives}
    if texts := str(case).startswith("texts"):
        encoder = TwoTower(DIM, hidden=[6], item_text=TransformerEncoder(4, layers=1, heads=2, dropout=0.3))
    else:
        encoder = LightGCN(DIM, layers=2, augment="edges") if "further" in options else Table(DIM)
    head, predictor = torch.nn.Linear(DIM, DIM), torch.nn.Linear(DIM, DIM) if loss.needs_predictor else None
    module = Contrastive(
        encoder, head, predictor, loss, EMA(copy.deepcopy(encoder), head, 0.9) if momentum else None,
        Anneal(None, 1, "linear"), partial(torch.optim.Adam, lr=0.05), partial(constant, warmup_epochs=0), seed=0,
    )  # fmt: skip
    draws = torch.Generator().manual_seed(3)
    guide = torch.arange(NODES), torch.randn(NODES, 3, generator=draws)
    with mock.patch.object(Guide, "on_data", lambda self, info: self.set_embeddings(*guide)):
        give_info(module.double(), replace(INFO, negatives=options.get("negatives", 0)))
    module.double().start_target()
    for part in rowwise(module.loss):
        if part.queue.size:  # items that are in the batch, and one that is not
            part.queue.push(torch.eye(DIM, dtype=torch.float64)[:3], USERS + torch.tensor([1, 4, 2]), None)
    return module, (TowerViews if texts else PairViews)(**options)


def gradients(case, rank: int = 0, world: int = 1, micro_batch: int | None = None) -> dict[str, torch.Tensor]:
    """The mean of the ranks' values and of their parameters' gradients."""
    module, views = made(case)
    module.micro_batch = micro_batch
    module.train()
    module._counted, module._draw_key = counted_parts(module), 7
    part = share(TOTAL, rank, world)
    params = slice_params(views.draw(TOTAL, torch.Generator().manual_seed(1)), part)
    nodes = BATCH + torch.tensor([0, USERS])
    viewed = views.apply(PairBatch(nodes[part], USERS, ITEMS), params)
    pair = Pair(viewed.views, viewed.ids, None, None, viewed.negatives, viewed.negative_ids, TOTAL,
                viewed.catalog, viewed.catalog_ids)  # fmt: skip
    with mock.patch.object(Contrastive, "global_rank", rank):
        value, _ = module.shared_step(pair)
    value.backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None} | {"value": value.detach()}
    for tensor in found.values():
        if world > 1:
            dist.all_reduce(tensor)
            tensor /= world
    return found


def ranks_main(cases: list, world: int, folder: str) -> None:
    """What each case has on so many ranks, into a file."""
    run_ranks(_rank_main, world, cases, folder)


def _rank_main(rank: int, world: int, cases: list, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {case: gradients(case, rank, world) for case in cases}
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.destroy_process_group()
