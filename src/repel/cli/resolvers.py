"""What conf/ computes from other options when it is composed: `${NAME:argument,...}`.

A saved config holds the results. Imported wherever a config is composed.
"""

from collections.abc import Sequence

from omegaconf import ListConfig, OmegaConf

__all__ = ["for_channels"]


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


OmegaConf.register_new_resolver(for_channels.__name__, for_channels, replace=True)
