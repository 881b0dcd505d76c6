"""Image files -> uint8 arrays. Without torch, so that worker processes start at once."""

import io
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from math import ceil, floor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = ["Box", "File", "decode", "decode_crops", "decode_files", "opened", "reason", "shown", "upright_size"]

File = str | Path | bytes  # a path, or the file's contents
Box = tuple[float, float, float, float]  # top, left, height, width in pixels
MAX_PIXELS = 100_000_000  # a 22 kB PNG can unfold to this and more: 100 megapixels take 300 MB in each worker
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def decode_files(files: list[Path], size: int, channels: int) -> tuple[np.ndarray, dict[int, str]]:
    """(n, channels, size, size) uint8, and for the files that failed their index and the reason in one line."""
    arrays = np.zeros((len(files), channels, size, size), np.uint8)
    errors = {}
    for index, path in enumerate(files):
        try:
            arrays[index] = decode(path, size, channels)
        except Exception as error:  # a damaged file can make Pillow raise anything
            errors[index] = reason(error)
    return arrays, errors


def reason(error: Exception) -> str:
    """One line, without the path, which stands next to it."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "not an image that Pillow knows" if "cannot identify" in text else text.splitlines()[0]


def shown(path: str | Path) -> str:
    """A path in one line that can be printed; names may hold line breaks, and bytes that are not UTF-8."""
    text = os.fsencode(path).decode(errors="replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def decode(file: File, size: int, channels: int) -> np.ndarray:
    """One file -> (channels, size, size) uint8: its largest centered square, scaled."""

    def center(height: int, width: int) -> list[Box]:
        side = min(height, width)
        return [((height - side) / 2, (width - side) / 2, side, side)]

    return decode_crops(file, center, [size], [False], channels)[0]


def decode_crops(
    file: File,
    boxes: Callable[[int, int], Sequence[Box]],
    sizes: Sequence[int],
    flips: Sequence[bool],
    channels: int,
) -> list[np.ndarray]:
    """Several crops of one file, which is decoded once: turned upright by EXIF, on white where transparent.

    Args:
        boxes: of the image's height and width, one box per crop.
        sizes: side of each crop's square output.
        flips: whether each is mirrored.
        channels: 1 or 3.

    Returns:
        One array (channels, size, size) uint8 per crop; scaled bilinearly, antialiased.
    """
    with opened(file) as image:
        upright = upright_size(image)
        wanted = boxes(*upright)
        # a JPEG can be decoded at a half, a quarter or an eighth, as long as no crop has to be enlarged for that
        shrink = min(min(height, width) / size for (_, _, height, width), size in zip(wanted, sizes, strict=True))
        smallest = [max(1, int(side / max(1, shrink))) for side in image.size]
        image.draft(None, (smallest[0], smallest[1]))
        image = on_white(to_8_bit(ImageOps.exif_transpose(image))).convert("L" if channels == 1 else "RGB")
    by = (image.height / upright[0], image.width / upright[1])
    arrays = []
    for (top, left, height, width), size, flip in zip(wanted, sizes, flips, strict=True):
        box = (left * by[1], top * by[0], (left + width) * by[1], (top + height) * by[0])
        # cut out first: Pillow would otherwise let pixels beyond the box's border in
        whole = (floor(box[0]), floor(box[1]), ceil(box[2]), ceil(box[3]))
        inner = (box[0] - whole[0], box[1] - whole[1], box[2] - whole[0], box[3] - whole[1])
        crop = np.asarray(image.crop(whole).resize((size, size), Image.Resampling.BILINEAR, inner))
        crop = crop[:, ::-1] if flip else crop
        arrays.append(crop[None] if channels == 1 else crop.transpose(2, 0, 1))
    return arrays


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width, turned as EXIF says."""
    return image.size if image.getexif().get(0x0112) in TURNED else image.size[::-1]


def opened(file: File) -> Image.Image:
    """The image, only its header read.

    Raises:
        ValueError: no regular file, such as a pipe, which would never end; or too many pixels.
    """
    if not isinstance(file, bytes) and not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("not a regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is an error instead
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}; a decompression bomb?")
    return image


def on_white(image: Image.Image) -> Image.Image:
    """Without transparency."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit gray is scaled to 8; Pillow's own conversion would clip it to white. Wider types have no known range."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError("32-bit integer pixels beyond 16 bits have no known range")
        return Image.fromarray((array >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert the image to 8 or 16 bits")
    return image
