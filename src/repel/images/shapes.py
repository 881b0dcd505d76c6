"""Heights and widths of images. Without torch, as decode.py."""

from collections.abc import Sequence

__all__ = ["Box", "Size", "center_box", "height_width", "size_in_words"]

Size = int | Sequence[int]  # a square's side, or height and width, in pixels
Box = tuple[float, float, float, float]  # top, left, height, width in pixels


def height_width(size: Size, option: str = "data.image_size") -> tuple[int, int]:
    """Height and width of a size.

    Args:
        option: where it was typed, for the message.

    Raises:
        ValueError: it is neither a side nor height and width, at least 1.

    >>> height_width(28), height_width([40, 100])
    ((28, 28), (40, 100))
    """
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        raise ValueError(f"{option} must be a side in pixels, at least 1, or [HEIGHT,WIDTH], got {size!r}")
    return sides


def center_box(height: int, width: int, size: Size) -> Box:
    """The largest centered box of an image that has the size's aspect, in whole pixels.

    A square's place may lie between two pixels; any other box has a whole place, so that an image that is held in
    memory and one that is read of a file are cut alike.

    >>> center_box(28, 43, 20), center_box(30, 50, [40, 100])
    ((0.0, 7.5, 28, 28), (5, 0, 20, 50))
    """
    tall, wide = height_width(size)
    if tall == wide:
        side = min(height, width)
        return (height - side) / 2, (width - side) / 2, side, side
    h, w = height, width
    if width * tall >= height * wide:
        w = max(1, round(height * wide / tall))
    else:
        h = max(1, round(width * tall / wide))
    return (height - h + 1) // 2, (width - w + 1) // 2, h, w  # as crop.boxes centers what fits nowhere


def size_in_words(size: Size) -> str:
    """
    >>> size_in_words([40, 100])
    '40x100'
    """
    return "x".join(map(str, height_width(size)))
