"""Do a CPU and an accelerator agree? Every loss, value and gradient, and every preset of views."""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from _benchmark import ROOT, resolved_config
from _gpu_steps import Evidence, Given, Section
from hydra.utils import instantiate
from torch import Tensor

from repel.base import seeding
from repel.data.views import Viewed
from repel.interactions.pairs import PairBatch
from repel.text.texts import TokenBatch

# of a difference, relative to the largest number of the CPU's value or gradient; numbers of views are of order 1
TOLERANCE = {("float64", "value"): 1e-10, ("float64", "gradient"): 1e-9,
             ("float32", "value"): 1e-4, ("float32", "gradient"): 1e-3}  # fmt: skip
VIEWS_TOLERANCE = 1e-3
CONF = ROOT / "conf"
OF_KIND = {"images": ["data=cifar10"], "text": ["experiment=text"], "interactions": ["experiment=recommendation"]}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def kind_of_views(name: str) -> str:
    """images, text or interactions: whose views a file of conf/views, or the one that it builds on, makes."""
    text = (CONF / f"views/{name}.yaml").read_text(encoding="utf-8")
    if found := re.search(r"_target_: repel\.(images|text|interactions)\.", text):
        return found[1]
    based = re.search(r"^defaults: \[([\w/]+)", text, re.MULTILINE)
    assert based, f"conf/views/{name}.yaml names no class and builds on nothing"
    return kind_of_views(based[1])


def loss_results(
    loss: torch.nn.Module, z: Tensor, further: dict[str, Any], device: str, kind: str
) -> dict[str, Tensor]:
    """Value and gradient, on the CPU."""
    dtype = getattr(torch, kind)
    loss = copy.deepcopy(loss).to(device, dtype)
    moved = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in further.items()}
    z = z.to(device, dtype, copy=True).requires_grad_()
    value = loss(z, **moved)
    value.backward()
    assert z.grad is not None
    return {"value": value.detach().cpu(), "gradient": z.grad.cpu()}


def difference(found: Tensor, reference: Tensor) -> float:
    largest = reference.abs().max().clamp(min=torch.finfo(reference.dtype).tiny)
    return float((found - reference).abs().max() / largest)


def compare_loss(name: str, given: Given) -> dict[tuple[str, str], float]:
    """The larger difference of two: without a target, and with one. On both sides the same weights and embeddings."""
    samples, dim = (6, 8) if given.tiny else (512, 128)
    torch.manual_seed(given.seed)
    loss = instantiate(resolved_config(f"loss={name}", f"head.out_features={dim}").loss)
    z, target = torch.randn(2, 2, samples, dim, dtype=torch.float64)
    own = torch.arange(samples)
    worst = dict.fromkeys(TOLERANCE, 0.0)
    for further in ({}, {"target": target}):
        further |= {"labels": own % 3, "ids": own}
        for kind in ("float64", "float32"):
            here, there = (loss_results(loss, z, further, device, kind) for device in ("cpu", given.device))
            for part in here:
                worst[kind, part] = max(worst[kind, part], difference(there[part], here[part]))
    return worst


def within(differences: dict[tuple[str, str], float]) -> bool:
    return all(value <= TOLERANCE[key] for key, value in differences.items())  # false for NaN


def compare_losses(names: Sequence[str], given: Given) -> tuple[Section, bool]:
    limits = ", ".join(f"{kind} {part} {limit:g}" for (kind, part), limit in TOLERANCE.items())
    words = (
        "Largest difference of the accelerator from the CPU, relative to the largest number of the CPU's value or "
        f"gradient; without a target and with one. Tolerances: {limits}."
    )
    section = Section("Losses", words, ["loss", *(" ".join(key) for key in TOLERANCE), "within"])
    agree = True
    for name in names:
        found = compare_loss(name, given)
        agree &= within(found)
        cells = [f"{value:.0e}" for value in found.values()]
        section.rows.append([name, *cells, "yes" if within(found) else "**no**"])
    return section, agree


def make_samples(kind: str, given: Given, max_tokens: int) -> Any:
    """Samples as views of such data take them."""
    n, draws = 8 if given.tiny else 256, torch.Generator().manual_seed(given.seed)
    if kind == "images":
        return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=draws)
    if kind == "interactions":
        nodes = torch.stack([torch.randint(0, 50, (n,), generator=draws), torch.randint(50, 90, (n,), generator=draws)])
        return PairBatch(nodes.T.contiguous(), users=50, items=40)
    tokens, positives = torch.randint(4, 1000, (2, n, max_tokens), dtype=torch.int32, generator=draws)
    lengths = torch.randint(1, max_tokens + 1, (n, 1), generator=draws)
    tokens[torch.arange(max_tokens) >= lengths] = 0
    return TokenBatch(tokens, positives, None, mask=2)


def moved(samples: Any, device: str) -> Any:
    if isinstance(samples, Tensor):
        return samples.to(device)
    return samples._replace(**{k: v.to(device) for k, v in samples._asdict().items() if isinstance(v, Tensor)})


def tensors(made: Any) -> Iterator[Tensor]:
    """Of views, crops, negatives and ids."""
    parts = made if isinstance(made, Viewed | tuple) else [made]
    for part in parts:
        if isinstance(part, Tensor):
            yield part.cpu()
        elif part is not None:
            yield from tensors(part)


def compare_views(name: str, given: Given) -> tuple[str, float]:
    """Of which data the views are, and the largest difference; each side draws for itself, from equal counters."""
    kind = kind_of_views(name)
    cfg = resolved_config(*OF_KIND[kind], f"views={name}")
    views, samples = instantiate(cfg.views), make_samples(kind, given, cfg.data.get("max_tokens", 0))
    n, made = len(samples if kind == "images" else samples[0]), []
    for device in ("cpu", given.device):
        params = views.draw(n, seeding.generator(given.seed, 0, 3, 5))  # seed, stream, epoch, step
        made.append(list(tensors(views.apply(moved(samples, device), params))))
    gaps = [(a.double() - b.double()).abs().max() for a, b in zip(*made, strict=True)]
    return kind, float(torch.stack(gaps).max())


def compare_all_views(names: Sequence[str], given: Given) -> tuple[Section, bool]:
    words = (
        "Largest difference between the views that the accelerator and the CPU make, each from parameters of its own, "
        f"drawn by the same counters. Images are normalized float32, tolerance {VIEWS_TOLERANCE:g}; tokens and nodes "
        "must be equal."
    )
    section, agree = Section("Views", words, ["views", "of", "difference", "within"]), True
    for name in names:
        kind, gap = compare_views(name, given)
        fine = gap <= (VIEWS_TOLERANCE if kind == "images" else 0)
        agree &= fine
        section.rows.append([name, kind, f"{gap:.0e}", "yes" if fine else "**no**"])
    return section, agree


def agreement(given: Given) -> Evidence:
    losses, all_losses = compare_losses(choices("loss"), given)
    views, all_views = compare_all_views(choices("views"), given)
    return Evidence([losses, views], all_losses and all_views)
