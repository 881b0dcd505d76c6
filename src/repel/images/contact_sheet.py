"""A contact sheet: images, their views, and under each view what was drawn for it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from repel.base import seeding
from repel.data.datamodule import PairData
from repel.data.sampler import BatchIndices
from repel.data.views import Params, ViewDraws, Viewed
from repel.images.sizes import SizedImages
from repel.images.views import crop

__all__ = ["Preview", "contact_sheet", "picture", "preview"]

CELL, LINE, LINES, GAP = 112, 11, 5, 4  # pixels: a picture's side, a line of text; lines under a picture; between cells


class Preview(NamedTuple):
    """Some images with their views.

    plain: (n, C, H, W) uint8.
    sizes: height and width of the pictures that crops were made of.
    views: of each view (n, C, H', W'), normalized.
    params: of each view, as drawn.
    """

    plain: Tensor
    sizes: Sequence[tuple[int, int]]
    views: Sequence[Tensor]
    params: Params


def preview(data: PairData, n: int) -> Preview:
    """The first n images of the first training batch, on one rank or several."""
    images = data.splits.train
    if not isinstance(images, SizedImages):
        raise ValueError(
            f"callbacks.pairs shows images, and this data has {images.description}; set callbacks.pairs=null"
        )
    n = min(n, data.batch_size, len(images))
    places = next(iter(data.order(0)))[:n]
    indices = BatchIndices(0, 0, places, slice(0, n), data.batch_size)
    draws = ViewDraws(data.views, data.seed, seeding.VIEWS, indices)
    fetched, params = images.fetch(places, draws), draws.params()
    made = data.views.apply(fetched.x, params)
    viewed = made if isinstance(made, Viewed) else Viewed(made)
    views = [*viewed.views, *(() if viewed.crops is None else viewed.crops)]
    sizes = [images.picture_size(place) for place in fetched.places.tolist()]
    return Preview(next(iter(images.plain([fetched.places])))[0], sizes, views, params)


def contact_sheet(shown: Preview, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """A column per image: the plain image, then every view with its parameters.

    Args:
        mean, std: per channel, to undo the normalization.
    """
    plain, sizes, views, params = shown
    n, channels = plain.shape[:2]
    center, spread = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    row = CELL + LINES * LINE + GAP
    sheet = Image.new("RGB", (n * (CELL + GAP) + GAP, LINE + CELL + 2 * GAP + len(views) * row), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 1)

    def place(pixels: Tensor, column: int, top: int, words: Sequence[str]) -> None:
        left = GAP + column * (CELL + GAP)
        sheet.paste(picture(pixels), (left, top))
        for i, line in enumerate(words[:LINES]):
            draw.text((left, top + CELL + i * LINE), line, "black", font)

    for column in range(n):
        place(plain[column], column, GAP, ["plain"])
        for number, (view, p) in enumerate(zip(views, params, strict=True)):
            pixels = (view[column].float().cpu() * spread + center).clamp(0, 1).mul(255).round().byte()
            top = LINE + CELL + 2 * GAP + number * row
            place(pixels, column, top, _describe(p, column, sizes[column], channels))
    return sheet


def picture(pixels: Tensor, side: int = CELL) -> Image.Image:
    """(C, H, W) uint8 -> side x side, in the image's proportions, on white; enlarged, its pixels are seen."""
    array = pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    height, width = pixels.shape[1:]
    scale = side / max(height, width)
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(array)).resize(size, kind)
    cell = Image.new("RGB", (side, side), "white")
    cell.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    return cell


def _describe(p: dict[str, Tensor], i: int, size: tuple[int, int], channels: int) -> list[str]:
    """What was drawn for one view of a picture of this size, in short lines; what was left out is not mentioned."""
    one, (height, width) = slice(i, i + 1), size
    top, left, tall, wide = crop.boxes(p["area"][one], p["aspect"][one], p["position"][one], height, width)[0].tolist()
    words = [f"crop {wide / width:.0%} x {tall / height:.0%}", f"at {left / width:.0%}, {top / height:.0%}"]
    if p["flip"][i]:
        words[-1] += " flip"
    if abs(angle := float(p["angle"][i])) > 0:
        words.append(f"turned {angle:+.0f} deg")
    b, c, s, h = p["factors"][i].tolist()
    if (b, c, s, h) != (1, 1, 1, 0):
        words += [f"bri {b:.2f}  con {c:.2f}"] + [f"sat {s:.2f}  hue {h:+.2f}"] * (channels > 1)
    last = []
    if float(p["gamma"][i]) != 1:
        last.append(f"gamma {float(p['gamma'][i]):.2f}")
    if p["grayscale"][i] and channels > 1:
        last.append("gray")
    if float(p["sigma"][i]) > 0:
        last.append(f"blur {float(p['sigma'][i]):.1f}")
    if float(p["threshold"][i]) <= 1:
        last.append("solar")
    if float(p["hole"][i]) > 0:
        last.append("hole")
    return words + ([", ".join(last)] if last else [])
