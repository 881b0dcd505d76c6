"""What a training step costs on 1 to 1,024 GPUs, by formulas: the tables of docs/scaling.md

    python scripts/scaling.py [--measure]

Computes the tables from constants in docs/benchmarks/scaling.json and writes them into the page. --measure takes these
constants from this machine first, half a minute of one core.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from _benchmark import PAGES, ROOT, write_page
from _scaling_formulas import (
    A100,
    H100,
    Batch,
    Machine,
    Model,
    block_bytes,
    encoder_seconds,
    gather_bytes,
    largest_gathered,
    memory,
    reduce_seconds,
    step_seconds,
)

from repel.base.signals import ends_on_signal

PAGE, CONSTANTS = ROOT / "docs/scaling.md", PAGES / "scaling.json"
WORLDS = (1, 8, 64, 1024)
RESNET, VIT = "ResNet-50, 224 pixels", "ViT-B/16, 224 pixels"
PUBLISHED = 2470  # images/s of ResNet-50 on one A100: NVIDIA DeepLearningExamples, commit 291f0d0
IMAGE_BYTES = 138e9 / 1281167  # of ImageNet's training images: its archive, and how many are in it
HALF = 0.5  # of float32's bytes: activations under bf16-mixed
GB, HOUR, MS = 1e9, 3600, 1e3
Tables = dict[str, list[str]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def number(value: float) -> str:
    """Two or three digits, such as 0.52, 5.2, 52, 5,200."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 2 else f"{value:.2g}"


def size_in_words(value: float) -> str:
    """Bytes or numbers, such as 1.3 GB."""
    unit, factor = next(((u, f) for u, f in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)) if value >= f), ("", 1))
    return f"{number(value / factor)} {unit}"


def models(found: dict[str, Any]) -> dict[str, Model]:
    return {name: Model(name, **counted) for name, counted in found["models"].items()}


def table_models(found: dict[str, Any]) -> list[str]:
    head = ("encoder", "parameters P", "FLOPs of a view, C", "kept for backward, a", "read and written, m")
    return table(head, [
        (m.name, f"{m.parameters:,}", size_in_words(m.flops), size_in_words(m.kept) + "B", size_in_words(m.moved) + "B")
        for m in models(found).values()
    ])  # fmt: skip


def table_machine(found: dict[str, Any]) -> list[str]:
    parts, loss, exchange = found["parts"], found["loss"], found["exchange"]
    small = next(iter(models(found).values()))
    rows = [
        ("a view (crop, flip, brightness, contrast; 28 pixels)", f"{parts['view'] * 1e6:.1f} µs"),
        ("encoder, small", f"{3 * small.flops / parts['encoder'] / 1e9:.0f} GFLOP/s: {parts['encoder'] * MS:.2f} ms "
         "for a view, forward and backward"),
        ("a logit of NT-Xent, all at once", f"{loss['fixed'] * 1e9:.1f} ns + D · {loss['of_dim'] * 1e9:.3f} ns"),
        ("memory traffic of a logit", f"{found['traffic']:.0f} bytes, counted"),
        ("AdamW", f"{parts['optimizer'] * 1e9:.1f} ns a parameter"),
        ("all-reduce, 2 ranks, gloo", f"{exchange['base'] * 1e6:.0f} µs + {size_in_words(exchange['bandwidth'])}B/s"),
    ]  # fmt: skip
    return table(("part", f"measured, torch {found['torch']}"), rows)


def predicted(batch: int, found: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of a step of the default run, by the formulas and this machine's constants."""
    parts, made, small = found["parts"], Batch(batch), next(iter(models(found).values()))
    loss = found["loss"]["fixed"] + made.D * found["loss"]["of_dim"]
    return {"views": 2 * batch * parts["view"], "encoder": 2 * batch * parts["encoder"], "loss": loss * made.logits,
            "optimizer": parts["optimizer"] * small.parameters}  # fmt: skip


def table_steps(found: dict[str, Any]) -> list[str]:
    rows = []
    for batch, measured in found["steps"].items():
        parts = predicted(int(batch), found)
        total = sum(parts.values())
        rows.append((batch, *(number(MS * s) for s in (*parts.values(), total, measured)), f"{measured / total:.2f}"))
    return table(("N", "views", "encoder", "loss", "AdamW", "formula", "measured", "ratio"), rows)


def table_published(found: dict[str, Any]) -> list[str]:
    seconds = encoder_seconds(Batch(1, V=1), models(found)[RESNET], A100)
    return table(("ResNet-50, one A100, bf16 or fp16", "images/s"),
                 [("formula", f"{1 / seconds:,.0f}"), ("published", f"{PUBLISHED:,}")])  # fmt: skip


def table_hardware(_: dict[str, Any]) -> list[str]:
    def row(m: Machine) -> tuple[str, ...]:
        rates = [f"{x / 1e12:g} TFLOP/s" for x in (m.flops, m.flops32)] + [f"{m.memory / GB:g} GB"]
        return (f"{m.name} SXM", *rates, *(f"{x / GB:,.0f} GB/s" for x in (m.hbm, m.near, m.far)))

    return table(("GPU", "bf16", "float32", "memory", "its bandwidth", "NVLink, one way", "network card, one way"),
                 [row(m) for m in (A100, H100)])  # fmt: skip


def table_worlds(found: dict[str, Any]) -> list[str]:
    head = ("encoder", "W", "N", "encoder", "loss", "gather", "all-reduce (if not hidden)", "AdamW", "step",
            "efficiency", "memory, GB")  # fmt: skip
    rows = []
    for name, B in ((RESNET, 256), (VIT, 128)):
        model, alone = models(found)[name], 0.0
        for W in WORLDS:
            batch = Batch(B, W, traffic=found["traffic"])
            parts = step_seconds(batch, model, H100)
            alone = alone or parts["step"]
            hidden = reduce_seconds(batch, model, H100)
            cells = [parts["encoder"], parts["loss"], parts["exchange"], hidden, parts["optimizer"], parts["step"]]
            last = f"{alone / parts['step']:.0%}", number(sum(memory(batch, model, HALF).values()) / GB)
            rows.append((name.partition(",")[0], f"{W:,}", f"{batch.N:,}", *(number(MS * s) for s in cells), *last))
    return table(head, rows)


def table_ring(found: dict[str, Any]) -> list[str]:
    head = ("GPU", "W", "B", "N", "received, GB", "gather, ms", "ring, ms", "gathered copies, GB", "of the ring, GB",
            "faster that fits")  # fmt: skip
    model, rows = models(found)[VIT], []
    for machine in (A100, H100):
        for W, B, D in ((8, 256, 512), (64, 1024, 512), (1024, 256, 512), (1024, 1024, 512), (1024, 4096, 512)):
            batch = Batch(B, W, D=D, micro=128, traffic=found["traffic"])
            seconds = []
            for ring in (False, True):
                parts = step_seconds(batch, model, machine, ring)
                seconds.append(parts["loss"] + parts["exchange"])
            copies = [memory(batch, model, HALF, ring)["embeddings"] for ring in (False, True)]
            fits = sum(memory(batch, model, HALF).values()) + block_bytes(batch, 1) < 0.9 * machine.memory
            best = "gather" if fits and seconds[0] < 1.05 * seconds[1] else "ring"
            cells = [gather_bytes(batch) / GB, *(MS * s for s in seconds), *(c / GB for c in copies)]
            rows.append((machine.name, f"{W:,}", f"{B:,}", f"{batch.N:,}", *map(number, cells), best))
    return table(head, rows)


def table_largest(_: dict[str, Any]) -> list[str]:
    return table(("D", "largest N whose gathered copies take 20 GB"),
                 [(str(D), f"{largest_gathered(H100, D):,}") for D in (128, 256, 512, 1024)])  # fmt: skip


def table_large(found: dict[str, Any]) -> list[str]:
    """What an epoch of large sets takes."""
    head = ("data", "encoder", "W", "N", "steps an epoch", "step, ms", "hours an epoch", "samples/s", "images, GB/s",
            "loss and gather, share")  # fmt: skip
    rows = []
    for data, samples, name, D, image in (
        ("10^8 images", 10**8, RESNET, 128, IMAGE_BYTES), ("10^8 images", 10**8, VIT, 128, IMAGE_BYTES),
        ("10^9 pairs of texts", 10**9, VIT, 512, 0),
    ):  # fmt: skip
        for W in (8, 64, 1024):
            batch = Batch(128, W, D=D, traffic=found["traffic"])
            parts = step_seconds(batch, models(found)[name], H100)
            speed, loss = batch.N / parts["step"], parts["loss"] + parts["exchange"]
            cells = (number(MS * parts["step"]), number(samples / speed / HOUR), f"{speed:,.0f}",
                     number(speed * image / GB) if image else "-", f"{loss / parts['step']:.0%}")  # fmt: skip
            rows.append((data, name.partition(",")[0], f"{W:,}", f"{batch.N:,}", f"{samples // batch.N:,}", *cells))
    return table(head, rows)


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "models": table_models, "machine": table_machine, "steps": table_steps, "published": table_published,
    "hardware": table_hardware, "worlds": table_worlds, "ring": table_ring, "largest": table_largest,
    "large": table_large,
}  # fmt: skip


def tables(found: dict[str, Any]) -> Tables:
    return {name: make(found) for name, make in TABLES.items()}


def fill(text: str, made: Tables) -> str:
    """The page with each table between its two marks."""
    for name, lines in made.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        body = "\n".join(["", *lines, ""])
        text, times = mark.subn(lambda found, body=body: found[1] + body + found[2], text)
        assert times == 1, f"docs/scaling.md has {times} places for the table {name}"
    return text


@ends_on_signal
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", action="store_true", help="the constants of this machine anew")
    if parser.parse_args(arguments).measure:
        from _scaling_measure import measure

        write_page(CONSTANTS.name, json.dumps(measure(), indent=1) + "\n")
    made = tables(json.loads(CONSTANTS.read_text(encoding="utf-8")))
    for name, lines in made.items():
        print(f"\n{name}\n", *lines, sep="\n")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
