"""Which files are images; and folders that belong to images and are no classes."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

from repel.base.installation import install_extra
from repel.base.terminal import shown
from repel.data.listing import Listing, list_files
from repel.data.split_names import plain_name
from repel.images.decode import HEIC_ENDINGS, HEIC_READABLE

__all__ = ["companions_among", "image_endings", "list_images"]

NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow names but does not decode,
NO_PICTURES |= {"EPS"}  # or only by starting Ghostscript
DEPTH_MAP = ".pfm"  # floating-point, next to the pictures they belong to
PICTURES = {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures", "rgb"}
OF_PICTURES = {  # what lies next to a folder of these, one file of an image's name each
    "annotation", "annotations", "annots", "depth", "groundtruth", "gt", "label", "labels", "mask", "masks", "previews",
    "segmentation", "segmentationclass", "segmentationobject", "segmentations", "thumbnails", "thumbs", "trimaps",
}  # fmt: skip


@cache
def image_endings() -> frozenset[str]:
    """The endings of files that Pillow here can decode, in lower case, with the dot."""
    Image.init()
    formats = (Image.OPEN.keys() | {"MPO"}) - NO_PICTURES  # MPO is opened as a JPEG
    return frozenset(e for e, form in Image.registered_extensions().items() if form in formats) - {DEPTH_MAP}


def list_images(folder: Path) -> Listing:
    """The images below a folder, and what is left out, see data.listing.list_files."""
    return list_files(folder, "images", _kind_left_out, companions_among)


def companions_among(names: Iterable[str]) -> tuple[str, str] | None:
    """Of folders next to each other: that of the images and one that belongs to it, such as images and masks."""
    found = {re.sub(r"[\W_]", "", plain_name(name)): name for name in names}
    pictures, others = sorted(found.keys() & PICTURES), sorted(found.keys() & OF_PICTURES)
    return (found[pictures[0]], found[others[0]]) if pictures and others else None


def _kind_left_out(ending: str) -> str | None:
    """What a file of this ending is; None for an image."""
    if ending in image_endings():
        return None
    if ending in HEIC_ENDINGS and not HEIC_READABLE:
        return f"{ending} ({install_extra('heic')} reads them)"
    return shown(ending) if ending else "without an ending"
