"""Image files -> uint8 arrays. Without torch, so that worker processes start at once."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def decode_files(files: list[Path], size: int, channels: int) -> tuple[np.ndarray, dict[int, str]]:
    """(n, channels, size, size) uint8, and for the files that failed their index and the reason in one line."""
    arrays = np.zeros((len(files), channels, size, size), np.uint8)
    errors = {}
    for index, path in enumerate(files):
        try:
            arrays[index] = decode(path, size, channels)
        except Exception as error:  # a damaged file can make Pillow raise anything
            errors[index] = (str(error).splitlines() or [type(error).__name__])[0]
    return arrays, errors


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """One file -> (channels, size, size) uint8: turned upright by EXIF, on white where transparent, scaled, cropped."""
    with Image.open(path) as image:
        image.draft(None, (2 * size, 2 * size))  # JPEG: decode at a reduced scale, never below twice the target
        image = ImageOps.exif_transpose(image)
        image = to_8_bit(image)
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


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
