"""Pack a folder of images into shards for data=stream: python scripts/pack_shards.py DIR OUT

The folder is read as data=image_folder reads it: DIR/train/CLASS/*, DIR/test/..., or DIR/CLASS/*, or DIR/*; where it
has no validation or test split, the same images are held out. Files are stored as they are, or scaled down by --side.
"""

import argparse
import io
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from repel.data.datamodule import held_out
from repel.data.decode import on_white, opened, reason, to_8_bit
from repel.data.encoded import Encoded
from repel.data.folder import image_folder
from repel.data.shards import FORMAT


def contents(path: str, side: int | None) -> bytes:
    """The file, or where its shorter side is longer than `side` a JPEG of quality 95 with that shorter side."""
    with opened(path) as image:
        if side is None or min(image.size) <= side:
            return Path(path).read_bytes()
        factor = side / min(image.size)
        image.draft(None, tuple(int(2 * factor * pixels) for pixels in image.size))
        image = on_white(to_8_bit(ImageOps.exif_transpose(image))).convert("RGB")
    factor = side / min(image.size)
    size = tuple(max(1, round(factor * pixels)) for pixels in image.size)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def record(item: tuple[str, int], side: int | None):
    """What one image becomes; nothing, and a line on stderr, if it cannot be read."""
    path, label = item
    try:
        yield {"image": contents(path, side), "label": label, "name": path}
    except Exception as error:
        print(f"left out: {path}: {reason(error)}", file=sys.stderr)


def pack(part: Encoded, folder: Path, side: int | None, chunk_bytes: str) -> int:
    """Write one split; labels.npy is made of what was written, read back. Returns the number of its images."""
    from litdata import StreamingDataset, optimize

    labels = [-1] * len(part) if part.labels is None else part.labels.tolist()
    items = [(part.open(place)[0], label) for place, label in enumerate(labels)]
    optimize(
        fn=partial(record, side=side), inputs=items, output_dir=str(folder), chunk_bytes=chunk_bytes,
        num_workers=max(1, part.workers), keep_data_ordered=True, reorder_files=False, mode="overwrite", verbose=False,
    )  # fmt: skip
    written = StreamingDataset(str(folder))
    assert json.loads((folder / "index.json").read_text())["config"]["types"] == FORMAT
    np.save(folder / "labels.npy", np.array([written[i]["label"] for i in range(len(written))], np.int64))
    return len(written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, help="scale images down to this shorter side, in pixels")
    parser.add_argument("--chunk-bytes", default="64MB", help="size of a chunk, such as 64MB")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="of train, where there is no folder val")
    parser.add_argument("--test-fraction", type=float, default=0.1, help="of train, where there is no folder test")
    parser.add_argument("--layout", default="splits", choices=("splits", "imagenet"))
    parser.add_argument("--workers", type=int, default=None, help="processes; all cores if left out")
    args = parser.parse_args()
    workers = "auto" if args.workers is None else args.workers
    try:
        splits = image_folder(args.folder, 1, 3, "skip", False, workers, args.layout)
        splits = held_out(splits, args.val_fraction, args.test_fraction, seed=0)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for name in ("train", "val", "test"):
        count = pack(getattr(splits, name), args.out / name, args.side, args.chunk_bytes)
        print(f"{name}: {count:,} images")
    # last: a folder without it is not whole
    (args.out / "classes.json").write_text(json.dumps(splits.classes, ensure_ascii=False) + "\n")
    print(f"train on them: python train.py data=stream data.root={args.out}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
