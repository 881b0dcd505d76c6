"""Pack a folder of images into shards for data=stream: repel pack-shards DIR OUT

The folder is read as by data=image_folder: DIR/train/CLASS/*, DIR/test/..., or DIR/CLASS/*, or DIR/*. If it has no
validation or test split, the same images are held out as there. Files are stored as they are, or scaled down by --side.
"""

import argparse
import io
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from repel.base.terminal import shown
from repel.data.layout import LAYOUTS, SPLITS
from repel.data.splits import held_out
from repel.images.decode import GrayRange, on_white, opened, reason, to_8_bit
from repel.images.encoded import Encoded
from repel.images.folder import image_folder, run_parallel
from repel.images.shards import FORMAT

CHUNK = 100  # files read at a time


def contents(path: str, side: int | None, gray_range: GrayRange | None) -> bytes:
    """The file; if its shorter side exceeds `side`, a JPEG of quality 95 scaled to that shorter side."""
    with opened(path) as image:
        if side is None or min(image.size) <= side:
            return Path(path).read_bytes()
        factor = side / min(image.size)
        width, height = (int(2 * factor * pixels) for pixels in image.size)
        image.draft(None, (width, height))
        image = on_white(to_8_bit(ImageOps.exif_transpose(image), gray_range)).convert("RGB")
    factor = side / min(image.size)
    width, height = (max(1, round(factor * pixels)) for pixels in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def read(paths: list[str], side: int | None, gray_range: GrayRange | None) -> list[bytes | str]:
    """The contents of each file, or the reason why it cannot be read."""
    made: list[bytes | str] = []
    for path in paths:
        try:
            made.append(contents(path, side, gray_range))
        except Exception as error:  # a damaged file can make Pillow raise anything
            made.append(reason(error))
    return made


def pack(part: Encoded, folder: Path, side: int | None, chunk_bytes: str) -> int:
    """Write one split, its labels.npy and its keys.npy; unreadable files are skipped and named on stderr.

    Returns:
        The number of images written.
    """
    from litdata import StreamingDataset
    from litdata.streaming import Cache

    given = [-1] * len(part) if part.labels is None else part.labels.tolist()
    paths = [part.open(place)[0] for place in range(len(part))]
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    task = partial(read, side=side, gray_range=part.gray_range)
    keys, packed = part.keys(), list[int]()
    assert keys is not None, "files have names"
    labels: list[int] = []
    place, shards = 0, Cache(str(folder), chunk_bytes=chunk_bytes)
    # files that are stored as they are need no decoding, and so no further processes
    for made in map(task, chunks) if side is None else run_parallel(task, chunks):
        for content in made:
            if isinstance(content, bytes):
                shards[len(labels)] = {"image": content, "label": given[place], "name": os.fsencode(paths[place])}
                labels.append(given[place])
                packed.append(place)
            else:
                print(f"skipped: {shown(paths[place])}: {content}", file=sys.stderr)
            place += 1
    if not labels:
        raise ValueError(f"{folder.name}: none of the {len(paths)} files can be read")
    shards.done()
    shards.merge()
    np.save(folder / "labels.npy", np.array(labels, np.int64))
    np.save(folder / "keys.npy", keys[torch.tensor(packed)].numpy())
    assert json.loads((folder / "index.json").read_text(encoding="utf-8"))["config"]["types"] == FORMAT
    assert len(StreamingDataset(str(folder))) == len(labels)
    return len(labels)


def _make_folder(folder: Path) -> None:
    """Raises ValueError where it cannot be made, or is there: another process may be packing into it."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {folder} ({error.strerror}); name another place") from error


def main() -> int:
    """Pack a folder of images into shards for data=stream: DIR OUT"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, help="scale images down to this shorter side, in pixels")
    parser.add_argument("--range", type=float, nargs=2, help="values that become black and white, as by data.range")
    parser.add_argument("--chunk-bytes", default="64MB", help="size of a chunk, such as 64MB")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="of train, if there is no folder val")
    parser.add_argument("--test-fraction", type=float, default=0.1, help="of train, if there is no folder test")
    parser.add_argument("--layout", default="splits", choices=LAYOUTS)
    args = parser.parse_args()
    # litdata warns about every chunk that is a little larger than requested
    warnings.filterwarnings("ignore", message="An item was larger than the target chunk size")
    try:
        if (args.out / "classes.json").exists() or any((args.out / name).exists() for name in SPLITS):
            raise ValueError(f"{args.out} already holds shards; choose another folder, or remove them")
        read = image_folder(args.folder, 1, 3, "skip", False, 0, args.layout, args.range)
        splits = held_out(read, args.val_fraction, args.test_fraction, seed=0, split_by="name")
        for name in SPLITS:
            _make_folder(args.out / name)
            count = pack(getattr(splits, name), args.out / name, args.side, args.chunk_bytes)
            print(f"{name}: {count:,} images")
        # last: a folder without it is incomplete
        (args.out / "classes.json").write_text(json.dumps(splits.classes, ensure_ascii=False) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"train on them: python train.py data=stream data.root={args.out}")
    return 0
