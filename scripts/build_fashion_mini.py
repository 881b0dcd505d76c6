"""Rebuild the bundled Fashion-MNIST subset, bit for bit, from Debian's package `dataset-fashion-mnist`.

    apt-get install dataset-fashion-mnist         # or: apt-get download + dpkg-deb -x
    python scripts/build_fashion_mini.py [--source /usr/share/datasets/fashion-mnist] [--check]

The subset is the first 600 training and the first 200 test images of each of the ten classes, in the order of the
original files. `--check` writes nothing and exits 1 if the bundled arrays differ from the source.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from repel.base.signals import ends_on_signal

TARGET = Path(__file__).parents[1] / "src/repel/images/fashion_mini/images.npz"


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file: magic 00 00 08 <ndim>, ndim big-endian int32 sizes, then the values."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"error: {path} is not an IDX file of unsigned bytes")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def first_per_class(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))
    return images[keep], labels[keep]


def subset(source: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for split, stem, count in (("train", "train", 600), ("test", "t10k", 200)):
        images = read_idx(source / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{stem}-labels-idx1-ubyte.gz")
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = first_per_class(images, labels, count)
    return arrays


def digest(arrays: dict[str, np.ndarray]) -> str:
    parts = (name.encode() + repr(a.shape).encode() + a.tobytes() for name, a in sorted(arrays.items()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def to_npz(arrays: dict[str, np.ndarray]) -> bytes:
    """A .npz with fixed dates, so that the same arrays give the same file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0))
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=9)
    return out.getvalue()


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.source.is_dir():
        print(f"error: no folder {args.source}; install Debian's package dataset-fashion-mnist", file=sys.stderr)
        return 2
    arrays = subset(args.source)
    if args.check:
        with np.load(TARGET) as bundled:
            same = digest(dict(bundled)) == digest(arrays)
        print(f"{TARGET.name}: {'identical to' if same else 'DIFFERS from'} the source, sha256 {digest(arrays)}")
        return 0 if same else 1
    TARGET.write_bytes(to_npz(arrays))
    print(f"wrote {TARGET.name}: {TARGET.stat().st_size:,} bytes, arrays sha256 {digest(arrays)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
