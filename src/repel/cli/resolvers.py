"""What conf/ computes from other options when it is composed: `${NAME:argument,...}`.

A saved config holds the results. Imported wherever a config is composed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["array_channels", "array_size", "compares_catalog", "encoder_width", "for_channels", "losses_in"]


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


def encoder_width(encoder: DictConfig) -> int:
    """The features of an encoder: its option `width`, or what the model says of itself in the folder `name`.

    Raises:
        ValueError: neither is there.

    >>> encoder_width(OmegaConf.create({"width": 128}))
    128
    """
    if "width" in encoder:
        return encoder.width
    file = Path(str(encoder.get("name"))).expanduser() / "config.json"
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        for name in ("hidden_size", "d_model", "dim", "n_embd"):  # as models of transformers call it
            if isinstance(known.get(name), int):
                return known[name]
    raise ValueError("head=identity: this encoder has no option width; type head.out_features=N, or head=linear or mlp")


def compares_catalog(loss: DictConfig) -> bool:
    """Whether a loss, or a member of a joint one, has all items of a catalog as its candidates.

    >>> compares_catalog(OmegaConf.create({"candidates": "catalog"})), compares_catalog(OmegaConf.create({}))
    (True, False)
    """
    return any(part.get("candidates") == "catalog" for part in losses_in(loss))


def losses_in(loss: DictConfig) -> list[DictConfig]:
    """A loss, and those that a joint one is the sum of."""
    members = [member for member in (loss.get("members") or {}).values() if isinstance(member, DictConfig)]
    return [loss, *(member.loss for member in members if isinstance(member.get("loss"), DictConfig))]


for resolver in (array_channels, array_size, compares_catalog, encoder_width, for_channels):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
