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
from repel.data.samples import Splits
from repel.images.decode import decode_files, shown
from repel.images.encoded import Encoded
from repel.images.memory import Images
from repel.images.sources import Files, worker_count

__all__ = ["image_files", "image_folder", "run_parallel"]

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SERVICE = {  # of systems and archivers, in lower case; as all hidden ones, never a class, never images
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information",
}  # fmt: skip
SPLITS = {"train": "train", "val": "val", "test": "test"}
IMAGENET = {"train": "train", "test": "val"}  # its validation images are what everyone tests on
SMALL = 96  # pixels a side, up to which a set is held in memory by data.in_memory=auto
MEMORY_LIMIT = 16 * 2**30  # bytes of decoded pixels; beyond that, holding a set in memory is a mistake on most machines
CHUNK = 500  # files a worker decodes before it reports back


def image_folder(
    root: str, size: int, channels: int, on_error: str, in_memory: bool | str, workers: int | str, layout: str
) -> Splits:
    """Read DIR/train/..., DIR/val/..., DIR/test/... where they exist, else all of DIR as the training set.

    Within a split, sub-folders are classes (at any depth below, files belong to the top one); files with no sub-folder
    have no label, and then the whole set counts as unlabeled. Where train has classes and val or test has none, that
    one is left out, which a line says. Hidden files and folders, and those of systems and archivers, do not count.

    Args:
        root: the folder.
        size: side of the plain image, in pixels: the largest centered square of the file, scaled.
        channels: 3 for RGB, 1 for gray.
        on_error: what to do with a file that cannot be read: `raise`, or `skip` it and list it.
        in_memory: True: plain images are decoded once and held, crops are made from these. False: files are decoded for
            every batch and crops made from the whole picture. `auto`: held up to 96 pixels a side, where they fit.
        workers: processes that decode batches, or auto.
        layout: `splits`, or `imagenet`, where the folder val is the test split.
    """
    _check_options(channels, on_error, in_memory)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root={root}: there is no such folder")
    parts = _split_folders(folder, IMAGENET if layout == "imagenet" else SPLITS)
    files = {split: image_files(part) for split, part in parts.items()}
    for split, names in files.items():
        if not names:
            raise ValueError(f"data.root={root}: no images in {parts[split]} (looked for {' '.join(sorted(ENDINGS))})")
    if layout == "splits":  # of ImageNet, whose val everyone tests on, no other images can stand in
        _leave_out_unlabeled(parts, files)
    classes = _class_names(parts, files)
    labels = {split: _class_labels(names, classes) if classes else None for split, names in files.items()}
    prefixes = {split: "" if part == folder else part.name for split, part in parts.items()}
    if not _holds_in_memory(root, sum(map(len, files.values())), size, channels, in_memory):
        how = size, channels, on_error == "skip", worker_count(workers)
        sources = {split: Files(str(parts[split]), names, prefixes[split]) for split, names in files.items()}
        encoded = {split: Encoded(source, labels[split], None, *how) for split, source in sources.items()}
        return Splits(encoded["train"], encoded.get("test"), encoded.get("val"), classes)
    skipped: list[str] = []
    decoded = {
        split: _decode_all(parts[split], names, labels[split], size, channels, on_error, skipped, prefixes[split])
        for split, names in files.items()
    }
    if not len(decoded["train"]):
        raise ValueError(f"data.root={root}: none of the {len(files['train'])} training images can be read")
    return Splits(decoded["train"], decoded.get("test"), decoded.get("val"), classes, skipped)


def _check_options(channels: int, on_error: str, in_memory: bool | str) -> None:
    if on_error not in ("raise", "skip"):
        raise ValueError(f"data.on_error must be raise or skip, got {on_error!r}")
    if channels not in (1, 3):
        raise ValueError(f"data.channels must be 1 or 3, got {channels}")
    if in_memory not in (True, False, "auto"):
        raise ValueError(f"data.in_memory must be true, false or auto, got {in_memory!r}")


def _holds_in_memory(root: str, total: int, size: int, channels: int, in_memory: bool | str) -> bool:
    """Whether so many plain images are held in memory.

    Raises:
        ValueError: it was asked for, and they are too many.
    """
    fits = total * channels * size * size <= MEMORY_LIMIT
    if in_memory is True and not fits:
        raise ValueError(
            f"data.root={root}: {total:,} images of {size}x{size} take more than {MEMORY_LIMIT >> 30} GiB in memory; "
            "set data.in_memory=false, lower data.image_size or point data.root at fewer images"
        )
    return in_memory is True or (in_memory == "auto" and size <= SMALL and fits)


def _split_folders(folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """Where each split lies; where train, val and test are not told apart by folders, all is train.

    Raises:
        ValueError: train, val or test stand next to other folders, or without train: a guess could mix the splits.
    """
    parts = {split: folder / name for split, name in names.items() if (folder / name).is_dir()}
    if not parts:
        return {"train": folder}
    known = list(names.values())
    beside = (p for p in folder.iterdir() if p.is_dir() and p.name not in known and not _is_service(p.name))
    others = {p.name: files for p in sorted(beside) if (files := image_files(p))}
    if others.keys() == {"test"} and known == [*IMAGENET.values()] and not any(os.sep in f for f in others["test"]):
        _print_left_out(folder / "test", others.pop("test"), "val is the test split")  # as ImageNet's archive has it
    if "train" not in parts or others:
        raise ValueError(
            f"data.root={folder} has {', '.join([*(p.name for p in parts.values()), *list(others)[:3]])}: put the "
            f"classes into train, and nothing else next to {' and '.join([', '.join(known[:-1]), known[-1]])}, or "
            "point data.root at a folder of classes"
        )
    return parts


def image_files(folder: Path) -> list[str]:
    """The images below a folder, relative to it, sorted, so that ids do not depend on the file system.

    Hidden ones and those of systems and archivers are left out, such as .ipynb_checkpoints and __MACOSX/._1.jpg. Links
    are followed, but not those that lead back to where they are.
    """
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root) + os.sep
        folders[:], names = ([name for name in some if not _is_service(name)] for some in (folders, names))
        folders[:] = [f for f in folders if not here.startswith(os.path.realpath(os.path.join(root, f)) + os.sep)]
        inner = os.path.relpath(root, folder)
        prefix = "" if inner == "." else inner + os.sep
        found += [prefix + name for name in names if os.path.splitext(name)[1].lower() in ENDINGS]
    return sorted(found, key=lambda path: path.split(os.sep))


def _is_service(name: str) -> bool:
    return name.startswith(".") or name.lower() in SERVICE


def _leave_out_unlabeled(parts: dict[str, Path], files: dict[str, list[str]]) -> None:
    """Take out val or test without class folders where all of train is in some; train then gives its share instead."""
    for split in ("val", "test"):
        found = files.get(split, [])
        if not found or any(os.sep in path for path in found) or any(os.sep not in path for path in files["train"]):
            continue
        _print_left_out(parts[split], found, f"as many as data.{split}_fraction says are held out of train")
        del parts[split], files[split]


def _print_left_out(folder: Path, files: list[str], instead: str) -> None:
    if rank() == 0:
        print(
            f"note     {folder} has no class folders: its {len(files):,} images are left out, and {instead}; "
            f"data.root={folder} reads them"
        )


def _class_names(parts: dict[str, Path], files: dict[str, list[str]]) -> list[str]:
    """The class folders of all splits, sorted; none when no image is in one.

    Raises:
        ValueError: some images are in class folders and some are not.
    """
    outside = [parts[split] / path for split, found in files.items() for path in found if os.sep not in path]
    if outside and len(outside) < sum(map(len, files.values())):
        raise ValueError(
            f"{outside[0]} lies outside the class folders next to it; move it into one, or all out of them"
        )
    return sorted({path.split(os.sep, 1)[0] for found in files.values() for path in found}) if not outside else []


def _class_labels(files: list[str], classes: list[str]) -> Tensor:
    """(N,) int64, by the class folder of each file."""
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[path.split(os.sep, 1)[0]] for path in files])


def _decode_all(
    folder: Path,
    files: list[str],
    labels: Tensor | None,
    size: int,
    channels: int,
    on_error: str,
    skipped: list[str],
    prefix: str,
) -> Images:
    """Decode files in parallel; those that cannot be read raise, or are appended to skipped and left out."""
    pixels = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    good = torch.ones(len(files), dtype=torch.bool)
    paths = [folder / file for file in files]
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    done = 0
    for arrays, errors in run_parallel(partial(decode_files, size=size, channels=channels), chunks):
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
    images = Images(pixels, labels, np.array([os.path.join(prefix, file) for file in files], dtype=object))
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
