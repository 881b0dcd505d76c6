"""Stored values and gradients of reference implementations, and ours for the same embeddings."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from loss_cases import DIM, IDS, LABELS, batch, batch_of, make, value_and_gradient

from repel.negatives import soft
from repel.negatives.hard import SemiHard

GOLDEN = json.loads((Path(__file__).parents[1] / "losses/golden_losses.json").read_text(encoding="utf-8"))
CASES = GOLDEN["cases"]
Z = torch.tensor([GOLDEN["z0"], GOLDEN["z1"]], dtype=torch.float64)

GOLDEN_OPTIONS = {
    "ntxent_t0.5": ("ntxent", {}),
    "decoupled_t0.5": ("decoupled", {}),
    "decoupled_weighted_t0.5": ("decoupled_weighted", {}),
    "supcon_t0.5": ("supcon", {}),
    "ntxent_pairwise_labels_t0.5": ("supcon", {"positives": "pairwise"}),
    "supin_labels_t0.5": ("supcon", {"positives": "in"}),
    "dhel_t0.5": ("dhel", {}),
    "macl_t0.5": ("macl", {}),
    "infonce_oneway_queue_t0.5": ("infonce", {"candidates": "queue", "symmetric": False}),
    "ressl_queue": ("ressl", {"candidates": "queue", "symmetric": False}),
    "align_uniform": ("align_uniform", {}),
    "barlow": ("barlow", {}),
    "vicreg_solo": ("vicreg", {}),
}


def golden(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    case = CASES[name]
    none = [[0.0] * DIM] * len(GOLDEN["z0"])  # of a key without gradient
    gradients = [case["grad_z0"], case["grad_z1"] or none]
    return torch.tensor(case["value"], dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def assert_golden(name: str, value: torch.Tensor, gradient: torch.Tensor) -> None:
    expected = golden(name)
    torch.testing.assert_close(value, expected[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-9, atol=1e-11)


def of_options(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient of the loss that a golden case is of."""
    loss, changes = GOLDEN_OPTIONS[name]
    if "temperature" in CASES[name]["params"]:
        changes = {**changes, "temperature": CASES[name]["params"]["temperature"]}
    queued = "queue" in CASES[name]["params"]
    made = make(loss, queue=len(GOLDEN["queue"]) if queued else 0, **changes)
    target = None
    if queued:
        past = torch.tensor(GOLDEN["queue"], dtype=torch.float64)
        made.queue.push(F.normalize(past, dim=-1), None, None)
        target = Z
    return value_and_gradient(made, Z, labels=torch.tensor(GOLDEN["labels"]), target=target)


def triplets() -> tuple[torch.Tensor, torch.Tensor]:
    """The reference averages over all kept triplets, ours over each anchor's and then over anchors."""
    case = CASES["triplet_semihard_m0.4"]
    margin = case["params"]["margin"]
    loss, z = make("triplet", SemiHard(margin), margin=margin), Z.clone().requires_grad_()
    kept = []
    weigh = loss.negatives.weigh
    loss.negatives.weigh = lambda block: (lambda out: kept.append(out.negative.sum(1)) or out)(weigh(block))
    values = loss.losses(batch_of(z))
    value = (values * kept[0]).sum() / kept[0].sum()
    value.backward()
    return value.detach(), z.grad


def cosine_embedding() -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs that are given, not found in a batch: the loss's two functions of a cosine."""
    case = CASES["cosine_embedding"]
    loss, z = make("margin_cosine", negative_margin=case["params"]["margin"]), Z.clone().requires_grad_()
    cosine = F.cosine_similarity(z[0], z[1], dim=-1)
    positive = torch.tensor(case["params"]["target"]) > 0
    value = torch.where(positive, loss.attract(cosine, 1.0), loss.repel(cosine, cosine, 1.0)).mean()
    value.backward()
    return value.detach(), z.grad


def with_negatives(strategy, temperature: float = 0.5, z=None, labels=LABELS):
    """Value and gradient of NT-Xent under a strategy."""
    loss = make("ntxent", strategy, temperature=temperature)
    return value_and_gradient(loss, batch() if z is None else z, labels=labels, ids=IDS)


HCL = [name for name in CASES if name.startswith("hcl_")]


def of_hcl(name: str):
    params = CASES[name]["params"]
    return with_negatives(soft.HCL(params["beta"], params["tau_plus"], detach=False), params["temperature"], Z)
