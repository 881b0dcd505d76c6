"""Images of more than 8 bits that use few of them: nearly black, and nearly the same."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageFile

from repel.base.collectives import rank
from repel.images.decode import GrayRange, opened

__all__ = ["note_narrow_range"]

LOOKED_AT = 20  # files of a set
LEVELS = 64  # of 256; fewer are worth a line


def note_narrow_range(paths: Sequence[Path], gray_range: GrayRange | None) -> None:
    """Say once where 16-bit files would be left with few gray levels, and the range that keeps them all.

    Microscopes, X-ray and depth cameras write 9 to 14 bits into 16. A set must not be scaled by what is in it without
    being asked: brightness may mean something, and other data would then be scaled otherwise.

    Of 16 bits in color Pillow itself keeps the upper 8, so that no range can bring back the others.
    """
    if rank() != 0:
        return
    found = [seen for path in paths[:: max(1, len(paths) // LOOKED_AT)] if (seen := _ends(path))]
    if color := [(low, high) for of_color, low, high in found if of_color]:
        levels = max(high for _, high in color) - min(low for low, _ in color) + 1
        if levels < LEVELS or gray_range is not None:
            print(
                f"note     the 16-bit color images keep their upper 8 bits: {levels} of 256 levels are left in "
                f"{len(color)} that were looked at, and data.range is of gray images alone; spread their values, and "
                "store 8 bits"
            )
    ends = [(low, high) for of_color, low, high in found if not of_color]
    if gray_range is not None or not ends:
        return
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if high <= 65535 and (levels := (high >> 8) - (low >> 8) + 1) < LEVELS:
        whole = 2 ** max(1, high.bit_length())  # of the camera, which keeps what is black, and is that of other files
        start, end = (0, whole - 1) if (high - low) * 4 >= whole else (low, max(high, low + 1))
        print(
            f"note     the 16-bit images have values from {low} to {high} of 65535 in {len(ends)} that were looked at: "
            f"{levels} of 256 gray levels are left; data.range=[{start},{end}] spreads this range over all levels"
        )


def _ends(path: Path) -> tuple[bool, int, int] | None:
    """Of a 16-bit image, whether it is in color, and the lowest and highest value, as Pillow reads them.

    None for others, and for what cannot be read.
    """
    try:
        with opened(path) as image:
            file = image.tile if isinstance(image, ImageFile.ImageFile) else ()  # how the file stores its pixels
            color = image.mode in ("RGB", "RGBA") and ";16" in repr(file)
            if image.mode != "I" and not image.mode.startswith("I;16") and not color:
                return None
            pixels = np.asarray(image)[..., :3] if color else np.asarray(image)
    except Exception:  # a damaged file can make Pillow raise anything; it is named where it is read
        return None
    return color, int(pixels.min()), int(pixels.max())
