"""Anyone's own images: a folder of files, with or without class folders, held in memory or decoded batch by batch."""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repel.base.collectives import rank
from repel.base.cores import cores_per_rank
from repel.base.terminal import shown
from repel.data.layout import LAYOUTS, Part, class_names, empty_folders, split_folders
from repel.data.samples import Splits
from repel.images.decode import GrayRange, check_gray_range, decode_files
from repel.images.encoded import Encoded, none_readable
from repel.images.gray_range import note_narrow_range
from repel.images.listing import list_images
from repel.images.memory import Images
from repel.images.shapes import Size, height_width
from repel.images.sources import Files, worker_count

__all__ = ["image_folder", "run_parallel"]

SMALL = 96  # pixels a side, or as many in all, up to which a set is held in memory by data.in_memory=auto
MEMORY_LIMIT = 16 * 2**30  # bytes of decoded pixels; beyond that, holding a set in memory is a mistake on most machines
CHUNK = 500  # files a worker decodes before it reports back


def image_folder(
    root: str,
    size: Size,
    channels: int,
    on_error: str,
    in_memory: bool | str,
    workers: int | str,
    layout: str,
    gray_range: GrayRange | None = None,
) -> Splits:
    """Read DIR/train/..., DIR/val/..., DIR/test/... where they exist, else all of DIR as the training set.

    Within a split, sub-folders are classes (at any depth below, files belong to the top one); files with no sub-folder
    have no label, and then the whole set counts as unlabeled. Where train has classes and val or test has none, that
    one is left out, which a line says. Hidden files and folders, and those of systems and archivers, do not count.

    Args:
        root: the folder.
        size: of the plain image, in pixels, a square's side, or height and width: the largest centered box of its
            aspect in the file, scaled.
        channels: 3 for RGB, 1 for gray.
        on_error: what to do with a file that cannot be read: `raise`, or `skip` it and list it.
        in_memory: True: plain images are decoded once and held, crops are made from these. False: files are decoded for
            every batch and crops made from the whole picture. `auto`: held up to 96 pixels a side, where they fit.
        workers: processes that decode batches, or auto.
        layout: `splits`, `classes` or `imagenet`, see layout.split_folders.
        gray_range: the values of gray images of more than 8 bits that become black and white; None: 0 and 65535.
    """
    _check_options(channels, on_error, in_memory, layout)
    gray_range = check_gray_range(gray_range)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root={root}: there is no such folder")
    parts = _list_parts(folder, layout)
    classes = class_names(folder, parts, "images")
    labels = {split: _class_labels(part.files, classes) if classes else None for split, part in parts.items()}
    paths = [folder / parts["train"].folder / file for file in parts["train"].files]
    note_narrow_range(paths, gray_range)
    if not _holds_in_memory(root, sum(len(part.files) for part in parts.values()), size, channels, in_memory):
        options = size, channels, on_error == "skip", worker_count(workers), gray_range
        encoded: dict[str, Encoded] = {}
        for split, part in parts.items():
            source = Files(str(folder / part.folder), part.files, part.folder)
            encoded[split] = Encoded(source, labels[split], None, *options)
            encoded[split].check_readable(split)
        return Splits(encoded["train"], encoded.get("test"), encoded.get("val"), classes)
    skipped: list[str] = []
    how = (channels, *height_width(size)), gray_range, on_error, skipped
    decoded = {split: _decode_all(folder, split, part, labels[split], *how) for split, part in parts.items()}
    return Splits(decoded["train"], decoded.get("test"), decoded.get("val"), classes, skipped)


def _check_options(channels: int, on_error: str, in_memory: bool | str, layout: str) -> None:
    if on_error not in ("raise", "skip"):
        raise ValueError(f"data.on_error must be raise or skip, got {on_error!r}")
    if channels not in (1, 3):
        raise ValueError(f"data.channels must be 1 or 3, got {channels}")
    if in_memory not in (True, False, "auto"):
        raise ValueError(f"data.in_memory must be true, false or auto, got {in_memory!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"data.layout must be {', '.join(LAYOUTS[:-1])} or {LAYOUTS[-1]}, got {layout!r}")


def _list_parts(folder: Path, layout: str) -> dict[str, Part]:
    """Each split's folder and images; a line says what of the folder is left out.

    Raises:
        ValueError: no images in a split, or it is not clear what is a split.
    """
    listing = list_images(folder)
    parts = split_folders(folder, listing, layout)
    read = sum(len(part.files) for part in parts.values())
    for part in parts.values():
        if not part.files:
            raise ValueError(f"no images in {folder / part.folder}; in data.root={folder}: {listing.describe(read)}")
    empty = empty_folders(listing, parts)
    if rank() == 0 and (listing.left_out or listing.closed or empty or read < len(listing.files)):
        print(f"files    {listing.describe(read)}" + (f"; no images in: {', '.join(empty)}" if empty else ""))
    return parts


def _holds_in_memory(root: str, total: int, size: Size, channels: int, in_memory: bool | str) -> bool:
    """Whether so many plain images are held in memory.

    Raises:
        ValueError: it was asked for, and they are too many.
    """
    height, width = height_width(size)
    fits = total * channels * height * width <= MEMORY_LIMIT
    if in_memory is True and not fits:
        raise ValueError(
            f"data.root={root}: {total:,} images of {height}x{width} take more than {MEMORY_LIMIT >> 30} GiB in "
            "memory; set data.in_memory=false, lower data.image_size or point data.root at fewer images"
        )
    return in_memory is True or (in_memory == "auto" and height * width <= SMALL**2 and fits)


def _class_labels(files: list[str], classes: list[str]) -> Tensor:
    """(N,) int64, by the class folder of each file."""
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[path.split(os.sep, 1)[0]] for path in files])


def _decode_all(
    root: Path,
    split: str,
    part: Part,
    labels: Tensor | None,
    shape: tuple[int, int, int],
    gray_range: GrayRange | None,
    on_error: str,
    skipped: list[str],
) -> Images:
    """Decode files in parallel; those that cannot be read raise, or are appended to skipped and left out.

    Raises:
        ValueError: none is left.
    """
    paths = [root / part.folder / file for file in part.files]
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    pixels = torch.empty(len(paths), *shape, dtype=torch.uint8)
    good = torch.ones(len(paths), dtype=torch.bool)
    decode = partial(decode_files, size=shape[1:], channels=shape[0], gray_range=gray_range)
    before, done = len(skipped), 0
    for arrays, errors in run_parallel(decode, chunks):
        pixels[done : done + len(arrays)] = torch.from_numpy(arrays)
        for index, reason in errors.items():
            path = shown(paths[done + index])
            if on_error == "raise":
                raise ValueError(
                    f"cannot read the image {path} ({reason}); remove it, or leave such files out by data.on_error=skip"
                )
            skipped.append(f"{path}: {reason}")
            good[done + index] = False
        done += len(arrays)
    if not good.any():
        raise ValueError(none_readable(split, skipped[before:]))
    images = Images(pixels, labels, np.array([os.path.join(part.folder, file) for file in part.files], dtype=object))
    return images if good.all() else images[good]


def run_parallel(task, chunks: list):
    """task over chunks, in order. Few files are done here: starting processes would cost more than it saves."""
    workers = min(cores_per_rank(), len(chunks))  # each rank reads for itself
    if workers < 2:
        yield from map(task, chunks)
        return
    # forkserver: forking a process that already runs torch's threads can deadlock
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        yield from pool.map(task, chunks)
