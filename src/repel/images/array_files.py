"""Files of NumPy arrays: which arrays are there, and which are the images and labels of each split. Without torch."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repel.data.split_names import SPELLINGS

__all__ = ["ArrayHeader", "Chosen", "axes_of", "choose_arrays", "image_shape", "load_array", "read_headers"]

AXES = ("NHW", "NHWC", "NCHW")
LABEL_WORDS = {"y", "label", "labels", "target", "targets", "class", "classes"}


class ArrayHeader(NamedTuple):
    """What is known of an array before it is read: its file, its name there, shape and type."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


class Chosen(NamedTuple):
    """The arrays of one split."""

    images: ArrayHeader
    labels: ArrayHeader | None


def read_headers(path: str, option: str) -> dict[str, ArrayHeader]:
    """Name -> header of a .npy file, by the file's name; of a .npz file; of the .npy files in a folder.

    Args:
        option: that named the path, for messages.

    Raises:
        ValueError: there are no such arrays, or they hold Python objects, whose loading could run code.
    """
    place = Path(path).expanduser()
    files = sorted(place.glob("*.npy")) if place.is_dir() else [place]
    if not files or not all(file.is_file() and file.suffix in (".npy", ".npz") for file in files):
        raise ValueError(f"{option}={path}: there is no such .npy or .npz file, or folder of .npy files")
    try:
        headers = [header for file in files for header in _headers_of(file)]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{option}={path} cannot be read as NumPy's arrays ({error})") from error
    for header in headers:
        if header.dtype.hasobject:
            raise ValueError(f"{option}={path}: {header.name} holds Python objects; save it as numbers or texts")
    return {header.name: header for header in headers}


def _headers_of(file: Path) -> list[ArrayHeader]:
    if file.suffix == ".npy":
        with file.open("rb") as opened:
            return [ArrayHeader(file, file.stem, *_header(opened))]
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        found = []
        for name in names:
            with archive.open(name) as opened:
                found.append(ArrayHeader(file, name.removesuffix(".npy"), *_header(opened)))
        return found


def _header(opened: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    return shape, dtype


def load_array(header: ArrayHeader) -> np.ndarray:
    """The array: of a .npy file memory-mapped, of a .npz file read."""
    if header.file.suffix == ".npy":
        return np.load(header.file, mmap_mode="r", allow_pickle=False)
    with np.load(header.file, allow_pickle=False) as arrays:
        return arrays[header.name]


def choose_arrays(
    root: str, label_file: str | None = None, key: str | None = None, label_key: str | None = None
) -> dict[str, Chosen]:
    """Split -> its images and labels. Images have three or four axes; names such as train_images or x_test tell splits.

    Args:
        root: the file or folder.
        label_file: a further one with the labels.
        key, label_key: words in the names of the images and of the labels, where several arrays could be either.

    Raises:
        ValueError: no images, or it is not clear which; names the option.
    """
    headers = read_headers(root, "data.root")
    extra = {} if label_file is None else read_headers(label_file, "data.label_file")
    images = {n: h for n, h in headers.items() if len(h.shape) in (3, 4) and (key is None or key in n)}
    by_split: dict[str, ArrayHeader] = {}
    for name, header in images.items():
        split = (_split_of(name) or "train") if len(images) > 1 else "train"
        if split in by_split:
            raise ValueError(
                f"data.root={root}: {by_split[split].name} and {name} both look like the {split} images; name one of "
                "them by data.key=NAME, or name arrays train_images, val_images and test_images"
            )
        by_split[split] = header
    if "train" not in by_split:
        there = ", ".join(f"{name} {header.shape}" for name, header in headers.items())
        raise ValueError(
            f"data.root={root} has no array of training images, (N,H,W), (N,H,W,C) or (N,C,H,W), "
            + (f"whose name has {key!r} in it" if key else "")
            + f"; there are: {there}"
        )
    alone = len(by_split) == 1
    labels = extra or {n: h for n, h in headers.items() if n not in images}
    found = {s: _labels_of(h, None if alone else s, labels, label_key) for s, h in by_split.items()}
    if label_file is not None and (without := [split for split, header in found.items() if header is None]):
        raise ValueError(
            f"data.label_file={label_file} has no labels of the {by_split[without[0]].shape[0]:,} {without[0]} images"
        )
    return {split: Chosen(header, found[split]) for split, header in by_split.items()}


def _labels_of(
    images: ArrayHeader, split: str | None, headers: Mapping[str, ArrayHeader], key: str | None
) -> ArrayHeader | None:
    fitting = [
        header
        for name, header in headers.items()
        if len(header.shape) in (1, 2)
        and header.shape[0] == images.shape[0]
        and (split is None or _split_of(name) == split)
        and (key is None or key in name)
    ]
    named = [header for header in fitting if LABEL_WORDS & set(_words(header.name))]
    chosen = named or fitting
    if len(chosen) > 1:
        raise ValueError(
            f"data.root: {' and '.join(header.name for header in chosen[:2])} could both be the labels of "
            f"{images.name}; data.label_key=NAME says which"
        )
    return chosen[0] if chosen else None


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _split_of(name: str) -> str | None:
    return next((SPELLINGS[word] for word in _words(name) if word in SPELLINGS), None)


def axes_of(shape: tuple[int, ...], axes: str | None) -> str:
    """The order of the axes of images: NHW, NHWC or NCHW.

    Args:
        axes: data.axes; None: told by the shape.

    Raises:
        ValueError: it is not clear, or they do not fit.
    """
    if axes is not None:
        if axes not in AXES or len(axes) != len(shape):
            raise ValueError(f"data.axes must be {', '.join(AXES)}, with a letter for each of {shape}, got {axes}")
        return axes
    if len(shape) == 3:
        return "NHW"
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        raise ValueError(
            f"images of {shape}: "
            + ("both the second and the last axis could be the channels" if first else "no axis has 1 or 3 channels")
            + "; data.axes=NHWC or NCHW says which is, and images have 1 or 3"
        )
    return "NCHW" if first else "NHWC"


def image_shape(root: str, axes: str | None, key: str | None) -> tuple[int, int, int]:
    """Channels, height and width of the training images, by the file's header alone."""
    shape = choose_arrays(root, key=key)["train"].images.shape
    sizes = dict(zip(axes_of(shape, axes), shape, strict=True))
    return sizes.get("C", 1), sizes["H"], sizes["W"]
