"""Every loss of conf/loss with every strategy of conf/negatives, alone and with a memory, on small batches."""

import copy
import functools
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from composing import CONF, composed
from conftest import options
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from repel.data.samples import give_info
from repel.interactions.pairs import InteractionInfo
from repel.losses import RowwiseLoss, base

LABELS, IDS = torch.tensor([0, 0, 1, 1, 2, 1]), torch.tensor([10, 11, 12, 13, 14, 15])
DIM = 5
# training pairs of 13 users and 200 items, entities 0 to 12 and 13 to 212, which are all that tests show
PAIRS_OF = [(user, item) for user in range(13) for item in range(200) if (7 * user + 3 * item) % 4 == 0 or item == 2]
DATA = InteractionInfo(len(PAIRS_OF), users=13, items=200, pairs=torch.tensor(PAIRS_OF, dtype=torch.int32))
OF_PAIRS = {  # strategies that are for such data alone, or chains of such
    name for name in options("negatives")
    if re.search(r"\.(known|popularity)\.", (CONF / f"negatives/{name}.yaml").read_text(encoding="utf-8"))
}  # fmt: skip
# what a guide model says of most of these, and of some that are in a queue
GUIDE = (torch.tensor([10, 11, 12, 13, 15, 32, 33, 34]), torch.randn(8, 3, generator=torch.Generator().manual_seed(2)))


@functools.cache
def node(group: str, name: str):
    """The group's part of `train.py group=name`: composed for one choice, the others are put in its place."""
    cfg = OmegaConf.create(_one_choice())
    cfg[group] = merged(group, name)
    return OmegaConf.create(OmegaConf.to_container(cfg[group], resolve=True))


def merged(group: str, name: str):
    """A file of conf/ with those that it builds on, some of them at a place of their own."""
    own, whole = OmegaConf.load(CONF / group / f"{name}.yaml"), OmegaConf.create()
    for other, _, place in (part.partition("@") for part in own.pop("defaults", []) if part != "_self_"):
        if place:
            OmegaConf.update(whole, place, merged(group, other), merge=True)
        else:
            whole = OmegaConf.merge(whole, merged(group, other))
    return OmegaConf.merge(whole, own)


def parts(cfg) -> list:
    """The loss of a node, or those that it is the sum of."""
    return [member["loss"] for member in cfg["members"].values()] if "members" in cfg else [cfg]


@functools.cache
def _one_choice() -> dict:
    return OmegaConf.to_container(composed("train", ["loss=ntxent", f"head.out_features={DIM}"]))


NO_NEGATIVES = {name for name in options("loss") if not any("negatives" in p for p in parts(node("loss", name)))}
NO_SUM = {  # nothing to debias
    name
    for name in set(options("loss")) - NO_NEGATIVES
    if not all(get_class(part["_target_"]).takes_correction for part in parts(node("loss", name)))
}
REFUSED = {(loss, strategy) for loss in NO_SUM for strategy in ("debiased", "hcl")}
REFUSED |= {(loss, strategy) for loss in NO_NEGATIVES for strategy in options("negatives") if strategy != "uniform"}
REFUSED |= {("ressl", "hardest"), ("ressl", "random")}
MATRIX = list(itertools.product(options("loss"), options("negatives")))
PAIRS = [pair for pair in MATRIX if pair not in REFUSED]
ROWWISE = [pair for pair in PAIRS if "negatives" in node("loss", pair[0])]  # no sum of such


def each_once(pairs) -> list:
    """The pairs as parameters of a test: in make test each loss and each strategy once, the others marked slow."""
    fewer = covering(pairs)
    return [pytest.param(pair, id="-".join(pair), marks=() if pair in fewer else pytest.mark.slow) for pair in pairs]


def covering(pairs) -> list:
    """Fewer pairs, in which each loss and each strategy of them occurs."""
    fewer = _with_a_part_that_is_new([(pair, None) for pair in pairs])
    return [pair for pair in pairs if (pair, None) in fewer]


def _with_a_part_that_is_new(cases: list) -> set:
    """Of cases (pair, memory): those whose loss or strategy was in none before, with that memory."""
    seen, kept = set(), set()
    for pair, memory in cases:
        parts = {(*part, memory) for part in enumerate(pair)}
        kept |= set() if parts <= seen else {(pair, memory)}
        seen |= parts
    return kept


# each loss and each strategy, without a memory and with one, which is there for InfoNCE above all
INFONCE_FIRST = sorted(PAIRS, key=lambda pair: pair[0] != "infonce")
FEWER = _with_a_part_that_is_new([(pair, False) for pair in PAIRS] + [(pair, True) for pair in INFONCE_FIRST])
CHOSEN = [(pair, False) for pair in PAIRS] + [case for case in sorted(FEWER) if case[1]]  # and every pair without


def name_of(pair: tuple[str, str], memory: bool) -> str:
    return f"{'-'.join(pair)}-{'queue and target' if memory else 'batch'}"


def with_and_without_memory():
    """Parameters `pair` and `memory` of a test: every pair; those that are not in FEWER are marked slow."""
    return pytest.mark.parametrize(
        ("pair", "memory"),
        [pytest.param(*case, id=name_of(*case), marks=() if case in FEWER else pytest.mark.slow) for case in CHOSEN],
    )


OWN_STOP_GRADIENT = {"macl", "decoupled_weighted"}  # part of the loss's definition: no finite difference sees it


_made: dict[tuple, torch.nn.Module] = {}


@functools.cache
def plain(group: str, name: str) -> dict:
    """Not to be changed."""
    return OmegaConf.to_container(node(group, name))


def built(node):
    """What Hydra's instantiate makes of a node, four times as fast; tests/cli/test_composing.py compares."""
    if isinstance(node, dict) and "_target_" in node:
        arguments = {key: built(value) for key, value in node.items() if key != "_target_"}
        return get_class(node["_target_"])(**arguments)
    if isinstance(node, dict):
        return OmegaConf.create({key: built(value) for key, value in node.items()}, flags={"allow_objects": True})
    if isinstance(node, list):
        return OmegaConf.create([built(value) for value in node], flags={"allow_objects": True})
    return node


def make(loss: str, negatives="uniform", queue: int = 0, **changes):
    """A loss of conf/loss in float64; `negatives` is a name, or a strategy. Of a joint one, all members are changed.

    A copy of what was instantiated before, if that drew no random numbers: copying is ten times as fast.
    """
    key = loss, negatives, queue, repr(changes)
    if key in _made:
        return copy.deepcopy(_made[key])
    before = torch.get_rng_state()
    cfg = copy.deepcopy(plain("loss", loss))
    for part in parts(cfg):
        part.update(changes)
        if "negatives" in part:
            part["negatives"] = plain("negatives", negatives) if isinstance(negatives, str) else negatives
            part["queue"]["size"] = queue
    try:
        made = built(cfg).double()
    except Exception:  # Hydra's says where it is
        made = instantiate(OmegaConf.create(cfg, flags={"allow_objects": True})).double()
    for part in rowwise(made) if negatives in ("guide", *OF_PAIRS) else ():
        if negatives == "guide":
            part.negatives.set_embeddings(*GUIDE)
        else:
            give_info(part.negatives, DATA)
    if isinstance(negatives, str) and torch.equal(before, torch.get_rng_state()):
        _made[key] = copy.deepcopy(made)
    return made


def rowwise(loss) -> list[RowwiseLoss]:
    """The loss, or those that it is the sum of, as far as they have candidates."""
    return [part for part in loss.modules() if isinstance(part, RowwiseLoss)]


def batch(views: int = 2, samples: int = 6, dim: int = DIM, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(views * samples + 1000 * seed)
    return torch.randn(views, samples, dim, generator=generator, dtype=dtype).requires_grad_()


def value_and_gradient(loss, z, **arguments):
    z = z.detach().requires_grad_()
    value = loss(z, **arguments)
    value.backward()
    return value.detach(), z.grad


def batch_of(z, labels=None, ids=None) -> base.Batch:
    """What forward makes of these arguments."""
    keys = base.unit(z)
    return base.Batch(keys, keys, labels, None if ids is None else ids[None], slice(None), raw=z)


def remember(loss):
    """Seven embeddings in a queue for eight; one of an image that is in the batch, one of a class that is."""
    past = torch.randn(7, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for part in rowwise(loss):
        part.queue.push(F.normalize(past, dim=-1), torch.tensor([10, 31, 32, 33, 34, 35, 36]),
                        torch.tensor([0, 1, 5, 6, 7, 5, -1]))  # fmt: skip
    return loss


def setting(pair, views: int, memory: bool, **changes):
    """A loss and its arguments: alone, or with a target and a queue."""
    if not memory:
        return make(*pair, **changes), {"labels": LABELS, "ids": IDS}
    made = make(*pair, **changes) if pair[0] in NO_NEGATIVES else remember(make(*pair, queue=8, **changes))
    return made, {"labels": LABELS, "ids": IDS, "target": batch(views, seed=1).detach()}


def stops_gradient(pair, memory: bool) -> bool:
    """Whether a part of the value is meant to have no gradient, which a finite difference does not know."""
    if pair[0] in OWN_STOP_GRADIENT or pair[1] == "mixed":
        return True  # golden values and equations test their gradients
    return not memory and pair[0] in ("sce", "ressl", "nnclr", "swav", "byol")  # they look at themselves


def assert_equal(a, b, **tolerance):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **({"rtol": 1e-10, "atol": 1e-12} | tolerance))
