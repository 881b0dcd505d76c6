"""Loss and views beside lightly, kornia and open_clip, as far as they are installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from _benchmark import compose_config, spread, timed
from _gpu_steps import Evidence, Given, Section, peak_bytes, reset_peak
from _view_rivals import IMAGE_BY_IMAGE, NAMES, make_images, make_rival
from benchmark_loss import DIM, TEMPERATURE, build
from hydra.utils import instantiate
from torch import Tensor

Loss = Callable[[Tensor], Tensor]
LOSSES = {  # name -> the package that it needs, which values it shares, words
    "repel": (None, "NT-Xent", "repel, `loss=ntxent`"),
    "repel-hcl": (None, None, "repel, `loss=ntxent negatives=hcl`"),
    "lightly": ("lightly", "NT-Xent", "lightly `NTXentLoss`"),
    "repel-infonce": (None, "InfoNCE", "repel, `loss=infonce`"),
    "open_clip": ("open_clip", "InfoNCE", "open_clip `ClipLoss`"),
}
RIVAL = {"repel": "lightly", "repel-hcl": "lightly", "repel-infonce": "open_clip"}  # whose share of it is given
ROWS = (512, 2048, 8192, 32768, 65536)  # 2N
VIEW_SIZES = ((32, 32, 4096), (256, 224, 256))  # of the image, of the view, images in a batch
VIEW_PACKAGES = {"lightly": "lightly", "kornia": "kornia"}
AGREEMENT = 1e-4  # of values that should be the same, in float32


def make_loss(name: str) -> Loss:
    """z (2, N, D) -> the loss."""
    if name == "open_clip":
        from open_clip import ClipLoss

        loss = ClipLoss()
        return lambda z: loss(*torch.nn.functional.normalize(z, dim=-1), 1 / TEMPERATURE)
    if name == "repel-infonce":
        return instantiate(compose_config("loss=infonce", f"loss.temperature={TEMPERATURE}").loss)
    return build(name)


def installed(package: str | None) -> bool:
    return package is None or find_spec(package) is not None


def time_losses(rows: int, given: Given, rounds: int) -> dict[str, Any]:
    """Name -> seconds, memory and value; what all take turns at. A name whose memory ran out has None."""
    draws = torch.Generator().manual_seed(given.seed)
    z = torch.randn(2, rows // 2, DIM, generator=draws).to(given.device).requires_grad_()
    found: dict[str, Any] = {}
    for number in range(rounds + 1):
        for name, (package, _, _) in LOSSES.items():
            if not installed(package) or found.get(name, ()) is None:
                continue
            z.grad, loss = None, make_loss(name) if number == 0 else found[name]["loss"]
            reset_peak(given.device)
            try:
                seconds = timed(lambda x, loss=loss: loss(x).backward(), z, given.device)
                if number == 0:  # it warms up
                    found[name] = {"loss": loss, "seconds": [], "value": float(loss(z.detach()))}
                    continue
            except torch.OutOfMemoryError:
                found[name] = None
                torch.accelerator.empty_cache()
                continue
            found[name]["seconds"].append(seconds)
            found[name]["memory"] = peak_bytes(given.device)
    return found


def check_values(found: dict[str, Any]) -> bool:
    """Whether losses that are the same have the same value."""
    groups: dict[str, list[float]] = {}
    for name, one in found.items():
        if one is not None and (group := LOSSES[name][1]):
            groups.setdefault(group, []).append(one["value"])
    return all(max(v) - min(v) <= AGREEMENT * abs(v[0]) for v in groups.values())


def loss_row(rows: int, name: str, found: dict[str, Any]) -> list[str]:
    words, one = LOSSES[name][2], found.get(name, ())
    if one == ():
        return [f"{rows:,}", words, f"skipped: {LOSSES[name][0]} is not installed", "-", "-"]
    if one is None:
        return [f"{rows:,}", words, "out of memory", "-", "-"]
    memory = "-" if one["memory"] is None else f"{one['memory'] / 2**20:,.0f}"
    rival, share = found.get(RIVAL.get(name, "")), "-"
    if rival:
        share = spread([a / b for a, b in zip(one["seconds"], rival["seconds"], strict=True)], 2)
    return [f"{rows:,}", words, spread([1e3 * s for s in one["seconds"]], 2), memory, share]


def compare_losses(given: Given) -> tuple[Section, bool]:
    rounds = 2 if given.tiny else 10
    words = (
        f"Forward and backward on random embeddings, D = {DIM}, float32, t = {TEMPERATURE}: median (and range) of "
        f"{rounds} rounds in which all take turns; share of the rival's time within a round. Values that should be the "
        f"same are within {AGREEMENT:g}: " + "{same}."
    )
    section, same = Section("Loss", "", ["2N", "loss", "ms", "peak memory, MiB", "time, share of the rival's"]), True
    for rows in ROWS[:1] if given.tiny else ROWS:
        if given.left() < 0:
            section.rows.append([f"{rows:,}", "left out: no time", "-", "-", "-"])
            continue
        found = time_losses(rows, given, rounds)
        same &= check_values(found)
        section.rows += [loss_row(rows, name, found) for name in LOSSES]
    section.words = words.format(same="yes" if same else "**no**")
    return section, same


def time_views(preset: str, sizes: tuple[int, int, int], given: Given, rounds: int) -> dict[str, list[float]]:
    """Views a second, a number a round. lightly's are made on the CPU, image by image, of fewer images."""
    (source, size, batch), rivals = sizes, {}
    for name in NAMES:
        package = VIEW_PACKAGES.get(name)
        if name.startswith("v") or name == "exact-image" or not installed(package):
            continue
        n = batch // 16 if name in IMAGE_BY_IMAGE else batch
        device = "cpu" if name in IMAGE_BY_IMAGE else given.device
        views = n * (2 if package is None else 1)
        rivals[name] = make_rival(name, preset, size), make_images(name, n, source, device), device, views
    speeds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, (function, images, device, views) in rivals.items():
            seconds = timed(function, images, device)
            if number:  # the first warms up
                speeds[name].append(views / seconds)
    return speeds


def compare_views(given: Given) -> Section:
    rounds = 1 if given.tiny else 7
    words = (
        "From uint8 images in memory to normalized float32 views, the same parameters for all; lightly's are made on "
        f"the CPU, image by image. Median (and range) of {rounds} rounds in which all take turns."
    )
    section = Section("Views", words, ["views", "pixels", "by", "views/s", "times kornia"])
    for preset, sizes in (("simclr_no_blur", VIEW_SIZES[0]), ("simclr", VIEW_SIZES[1])):
        if given.tiny:
            sizes = (*VIEW_SIZES[0][:2], 16)
        speeds = time_views(preset, sizes, given, rounds)
        for name in ("exact", "fused", "kornia", "lightly"):
            cells = [f"`{preset}`", f"{sizes[0]} to {sizes[1]}", NAMES[name]]
            if name not in speeds:
                section.rows.append([*cells, f"skipped: {VIEW_PACKAGES[name]} is not installed", "-"])
                continue
            times = [a / b for a, b in zip(speeds[name], speeds.get("kornia", []), strict=False)]
            section.rows.append([*cells, spread(speeds[name]), spread(times, 1) if times else "-"])
    return section


def rivals(given: Given) -> Evidence:
    losses, same = compare_losses(given)
    complete = not any("left out: no time" in row for row in losses.rows)
    return Evidence([losses, compare_views(given)], same, complete)
