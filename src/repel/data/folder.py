"""Anyone's own images: a folder of files, with or without class folders, decoded once and held in memory."""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import torch

from repel.data.decode import decode_files
from repel.data.images import Images, Splits

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SPLITS = ("train", "val", "test")
MEMORY_LIMIT = 16 * 2**30  # bytes of decoded pixels; beyond that, holding a set in memory is a mistake on most machines
CHUNK = 500  # files a worker decodes before it reports back


def image_folder(root: str, size: int, channels: int, on_error: str) -> Splits:
    """Read DIR/train/..., DIR/val/..., DIR/test/... where they exist, else all of DIR as the training set.

    Within a split, sub-folders are classes (at any depth below, files belong to the top one); files with no sub-folder
    have no label, and then the whole set counts as unlabelled.

    Args:
        root: the folder.
        size: every image is scaled and centre-cropped to size x size pixels.
        channels: 3 for RGB, 1 for gray.
        on_error: what to do with a file that cannot be read: `raise`, or `skip` it and list it.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"data.on_error must be raise or skip, got {on_error!r}")
    if channels not in (1, 3):
        raise ValueError(f"data.channels must be 1 or 3, got {channels}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root={root}: there is no such folder")
    parts = split_folders(folder)
    files = {split: image_files(part) for split, part in parts.items()}
    for split, found in files.items():
        if not found:
            raise ValueError(f"data.root={root}: no images in {parts[split]} (looked for {' '.join(sorted(ENDINGS))})")
    total = sum(map(len, files.values()))
    if total * channels * size * size > MEMORY_LIMIT:
        raise ValueError(
            f"data.root={root}: {total:,} images of {size}x{size} take more than {MEMORY_LIMIT >> 30} GiB in memory; "
            "lower data.image_size or point data.root at fewer images"
        )
    classes = class_names(parts, files)
    skipped: list[str] = []
    loaded = {
        split: load(parts[split], found, classes, size, channels, on_error, skipped) for split, found in files.items()
    }
    if not len(loaded["train"]):
        raise ValueError(f"data.root={root}: none of the {len(files['train'])} training images can be read")
    return Splits(**loaded, classes=classes, skipped=skipped)


def split_folders(folder: Path) -> dict[str, Path]:
    """Where each split lies; where train, val and test are not told apart by folders, all is train.

    Raises:
        ValueError: train, val or test stand beside other folders, or without train: a guess could mix the splits.
    """
    parts = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    if not parts:
        return {"train": folder}
    others = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in SPLITS and image_files(p))
    if "train" not in parts or others:
        raise ValueError(
            f"data.root={folder} has {', '.join([*parts, *others[:3]])}: name the splits train, val and test and put "
            "nothing else beside them, or point data.root at a folder of classes"
        )
    return parts


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, links followed, sorted, so that ids do not depend on the file system."""
    found = (Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in found if path.suffix.lower() in ENDINGS)


def class_names(parts: dict[str, Path], files: dict[str, list[Path]]) -> list[str]:
    """The class folders of all splits, sorted; none when no image lies in one.

    Raises:
        ValueError: some images lie in class folders and some do not.
    """
    relative = {path: path.relative_to(parts[split]) for split, found in files.items() for path in found}
    outside = [path for path, short in relative.items() if len(short.parts) == 1]
    if outside and len(outside) < len(relative):
        raise ValueError(f"{outside[0]} lies outside the class folders beside it; move it into one, or all out of them")
    return sorted({short.parts[0] for short in relative.values()}) if not outside else []


def load(
    folder: Path, files: list[Path], classes: list[str], size: int, channels: int, on_error: str, skipped: list[str]
) -> Images:
    """Decode files in parallel; those that cannot be read raise, or are appended to skipped and left out."""
    pixels = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    good = torch.ones(len(files), dtype=torch.bool)
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    done = 0
    for arrays, errors in run_parallel(partial(decode_files, size=size, channels=channels), chunks):
        pixels[done : done + len(arrays)] = torch.from_numpy(arrays)
        for index, reason in errors.items():
            path = files[done + index]
            if on_error == "raise":
                raise ValueError(
                    f"cannot read the image {path} ({reason}); remove it, or leave such files out by data.on_error=skip"
                )
            skipped.append(f"{path}: {reason}")
            good[done + index] = False
        done += len(arrays)
    labels = None
    if classes:
        number = {name: i for i, name in enumerate(classes)}
        labels = torch.tensor([number[path.relative_to(folder).parts[0]] for path in files])
    images = Images(pixels, labels)
    return images if good.all() else images[good]


def run_parallel(task, chunks: list):
    """task over chunks, in order. Few files are done here: starting processes would cost more than it saves."""
    cores = (cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # each rank reads for itself
    workers = min(cores, len(chunks))
    if workers < 2:
        yield from map(task, chunks)
        return
    # forkserver: forking a process that already runs torch's threads can deadlock
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        yield from pool.map(task, chunks)
