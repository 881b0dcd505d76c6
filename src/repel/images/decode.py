"""Image files -> uint8 arrays. Without torch, so that worker processes start at once."""

import io
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from math import ceil, floor, inf
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from repel.images.shapes import Box, Size, center_box, height_width

try:
    import pillow_heif
except ImportError:
    HEIC_READABLE = False  # which a line says where there are such files
else:
    pillow_heif.register_heif_opener()
    HEIC_READABLE = True

__all__ = [
    "HEIC_ENDINGS", "HEIC_READABLE", "File", "GrayRange", "check_gray_range", "decode", "decode_crops",
    "decode_files", "opened", "reason", "to_8_bit", "upright_size",
]  # fmt: skip

File = str | Path | bytes  # a path, or the file's contents
GrayRange = Sequence[float]  # the pixel values that become black and white, where a file has more than 8 bits
HEIC_ENDINGS = (".heic", ".heics", ".heif", ".heifs", ".hif")
MAX_PIXELS = 100_000_000  # a 22 kB PNG can unfold to this and more: 100 megapixels take 300 MB in each worker
PILLOW = r"PIL\."  # its modules
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def decode_files(
    files: list[Path], size: Size, channels: int, gray_range: GrayRange | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """(n, channels, H, W) uint8, and for the files that failed their index and the reason in one line."""
    arrays = np.zeros((len(files), channels, *height_width(size)), np.uint8)
    errors = {}
    for index, path in enumerate(files):
        try:
            arrays[index] = decode(path, size, channels, gray_range)
        except Exception as error:  # a damaged file can make Pillow raise anything
            errors[index] = reason(error)
    return arrays, errors


def reason(error: Exception) -> str:
    """One line, without the path, which stands next to it."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "not an image that Pillow knows" if "cannot identify" in text else text.splitlines()[0]


def decode(file: File, size: Size, channels: int, gray_range: GrayRange | None = None) -> np.ndarray:
    """One file -> (channels, H, W) uint8: its largest centered box of the size's aspect, scaled."""

    def center(height: int, width: int) -> list[Box]:
        return [center_box(height, width, size)]

    return decode_crops(file, center, [size], [False], channels, gray_range)[0]


def decode_crops(
    file: File,
    boxes: Callable[[int, int], Sequence[Box]],
    sizes: Sequence[Size],
    flips: Sequence[bool],
    channels: int,
    gray_range: GrayRange | None = None,
) -> list[np.ndarray]:
    """Several crops of one file, which is decoded once: turned upright by EXIF, on white where transparent.

    Args:
        boxes: of the image's height and width, one box per crop.
        sizes: of each crop's output.
        flips: whether each is mirrored.
        channels: 1 or 3.
        gray_range: see to_8_bit.

    Returns:
        One array (channels, H, W) uint8 per crop; scaled bilinearly, antialiased.
    """
    with opened(file) as image:
        upright = upright_size(image)
        wanted = boxes(*upright)
        # a JPEG can be decoded at a half, a quarter or an eighth, as long as no crop has to be enlarged for that
        sides = [height_width(size) for size in sizes]
        shrink = min(
            min(height / tall, width / wide) for (*_, height, width), (tall, wide) in zip(wanted, sides, strict=True)
        )
        smallest = [max(1, int(side / max(1, shrink))) for side in image.size]
        image.draft(None, (smallest[0], smallest[1]))
        image = on_white(to_8_bit(ImageOps.exif_transpose(image), gray_range)).convert("L" if channels == 1 else "RGB")
    by = (image.height / upright[0], image.width / upright[1])
    arrays = []
    for (top, left, height, width), (tall, wide), flip in zip(wanted, sides, flips, strict=True):
        box = (left * by[1], top * by[0], (left + width) * by[1], (top + height) * by[0])
        # cut out first: Pillow would otherwise let pixels beyond the box's border in
        whole = (floor(box[0]), floor(box[1]), ceil(box[2]), ceil(box[3]))
        inner = (box[0] - whole[0], box[1] - whole[1], box[2] - whole[0], box[3] - whole[1])
        crop = np.asarray(image.crop(whole).resize((wide, tall), Image.Resampling.BILINEAR, inner))
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
    _silence_pillow()
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}; a decompression bomb?")
    return image


def _silence_pillow() -> None:
    """Ignore Pillow's warnings: of metadata that points outside the file, twice a file and read; of large images.

    Of these the limit in `opened` is an error instead. A filter that stays, and is put back where somebody restored
    older ones: warnings.catch_warnings() around each file would make Python forget which warnings it has shown.
    """
    if not any(
        action == "ignore" and getattr(module, "pattern", "") == PILLOW for action, _, _, module, _ in warnings.filters
    ):
        warnings.filterwarnings("ignore", module=PILLOW)


def on_white(image: Image.Image) -> Image.Image:
    """Without transparency."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def to_8_bit(image: Image.Image, gray_range: GrayRange | None = None) -> Image.Image:
    """Gray of more than 8 bits is scaled to 8; Pillow's own conversion would clip it to white.

    Args:
        gray_range: the values that become 0 and 255, others are clipped; None: 0 and 65535, of 16-bit images. Wider
            types have no known range.
    """
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return image
    array = np.asarray(image)
    if gray_range is not None:
        low, high = gray_range
        scaled = (np.nan_to_num(array.astype(np.float64), nan=low) - low) * (255 / (high - low))
        return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; set it by 'data.range=[LOW,HIGH]'")
    if image.mode == "I" and (array.min() < 0 or array.max() > 65535):
        raise ValueError("32-bit integer pixels beyond 16 bits have no known range; set it by 'data.range=[LOW,HIGH]'")
    return Image.fromarray((array >> 8).astype(np.uint8))


def check_gray_range(gray_range: Any) -> GrayRange | None:
    """data.range as numbers.

    Raises:
        ValueError: it is no range.
    """
    if gray_range is None:
        return None
    ends = tuple(gray_range) if isinstance(gray_range, Sequence) else (gray_range,)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if not (numbers and len(ends) == 2 and -inf < ends[0] < ends[1] < inf):
        raise ValueError(f"data.range must be two numbers, the lower one first, such as [0,4095], got {gray_range}")
    return ends
