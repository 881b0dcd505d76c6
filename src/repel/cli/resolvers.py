"""What conf/ computes from other options when it is composed: `${NAME:argument,...}`.

A saved config holds the results. Imported wherever a config is composed.
"""

from collections.abc import Sequence

from omegaconf import ListConfig, OmegaConf

__all__ = ["array_channels", "array_size", "for_channels"]


def array_channels(root: str, axes: str | None, key: str | None) -> int:
    """The channels of the images in a file of arrays."""
    return _image_shape(root, axes, key)[0]


def array_size(root: str, axes: str | None, key: str | None) -> int | ListConfig:
    """Their side, or height and width."""
    _, height, width = _image_shape(root, axes, key)
    return height if height == width else ListConfig([height, width])


def _image_shape(root: str, axes: str | None, key: str | None) -> tuple[int, int, int]:
    from repel.images.array_files import image_shape  # which imports numpy

    return image_shape(root, axes, key)


def for_channels(channels: int, gray: Sequence[float], color: Sequence[float]) -> ListConfig:
    """One of two defaults with a value for each channel.

    Raises:
        ValueError: neither has as many values.

    >>> for_channels(1, [0.459], [0.485, 0.456, 0.406])
    [0.459]
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels={channels}: set data.mean and data.std, each to a list of {channels} values")
    return ListConfig(list(gray if channels == 1 else color))  # of a plain list OmegaConf makes no part of the config


for resolver in (array_channels, array_size, for_channels):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
