"""Images and other one-channel arrays, such as spectrograms, out of NumPy's files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from repel.base.collectives import rank
from repel.data.array_labels import encode_labels
from repel.data.samples import DataInfo, Fetched, Splits
from repel.data.views import ViewDraws
from repel.images.array_files import Chosen, axes_of, choose_arrays, load_array
from repel.images.decode import GrayRange, check_gray_range
from repel.images.memory import Images, scaled_center
from repel.images.modality import IMAGES, ImageModality
from repel.images.shapes import Size, height_width, size_in_words

__all__ = ["MappedImages", "arrays"]

HELD = 2**30  # bytes of pixels, up to which data.in_memory=auto holds a .npy file in memory
LOOKED_AT = 1000  # images of a mapped file, by which its range is checked
BLOCK = 1000  # images that are converted at a time


@dataclass(frozen=True)
class MappedImages:
    """Images of one size in a memory-mapped array, read when they are needed.

    Args:
        array: (N, ...), as stored.
        axes: its axes, NHW, NHWC or NCHW.
        channels: 1 or 3.
        values: those that become black and white; None: uint8 as it is.
        labels: (n,) int64, -1 where unknown, or None.
        index: (n,), which of the array's rows these are; None: all.
        size: of the plain image; None: as stored.
    """

    array: np.ndarray
    axes: str
    channels: int
    values: GrayRange | None
    labels: Tensor | None = None
    index: Tensor | None = None
    size: Size | None = None
    workers: int = 0
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.array) if self.index is None else len(self.index)

    @property
    def modality(self) -> ImageModality:
        return IMAGES

    @property
    def description(self) -> str:
        return f"images of {size_in_words(self.size or self.picture_size(0))}x{self.channels}, memory-mapped"

    def __getitem__(self, index: Tensor) -> "MappedImages":
        index = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
        labels = None if self.labels is None else self.labels[index]
        return replace(self, index=index if self.index is None else self.index[index], labels=labels)

    @property
    def labelled(self) -> "MappedImages":
        assert self.labels is not None, "asked for the labels of unlabeled images"
        known = self.labels >= 0
        return self if bool(known.all()) else self[known]

    def with_labels(self, labels: Tensor | None) -> "MappedImages":
        return replace(self, labels=labels)

    def keys(self) -> Tensor | None:
        return None

    def at_size(self, size: Size) -> "MappedImages":
        """The same images, whose plain image has this size."""
        return replace(self, size=size)

    def picture_size(self, place: int) -> tuple[int, int]:
        """Height and width of the picture that crops are cut from."""
        sizes = dict(zip(self.axes, self.array.shape, strict=True))
        return sizes["H"], sizes["W"]

    def info(self) -> DataInfo:
        return DataInfo(len(self))

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        yield torch.randperm(len(self), generator=generator)

    def fetch(self, places: Tensor, draws: ViewDraws) -> Fetched:
        return Fetched(places, self._pixels(places))

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Evaluation's batches: pixels (b, C, H, W) uint8 at each of the places, and which could be read, (b,): all."""
        for place in places:
            pixels = self._pixels(place)
            yield pixels if self.size is None else scaled_center(pixels, self.size), torch.ones(len(place)).bool()

    def _pixels(self, places: Tensor) -> Tensor:
        rows = places if self.index is None else self.index[places]
        return _to_pixels(self.array[rows.numpy()], self.axes, self.channels, self.values)


def arrays(
    root: str,
    size: Size,
    channels: int,
    label_file: str | None = None,
    key: str | None = None,
    label_key: str | None = None,
    axes: str | None = None,
    values: GrayRange | None = None,
    in_memory: bool | str = "auto",
) -> Splits:
    """Read a .npy or .npz file, or a folder of .npy files, see array_files.choose_arrays.

    Args:
        root: the file or folder. Images are (N,H,W), (N,H,W,C) or (N,C,H,W), of any type of numbers.
        size: of the plain image; images of another size are cut to its aspect and scaled.
        channels: 3 repeats the channel of gray images, 1 makes color gray.
        label_file: a further file with the labels: numbers, texts or one-hot rows; unknown: negative, NaN or empty.
        key, label_key: words in the names of the arrays, where several could be the images or the labels.
        axes: NHW, NHWC or NCHW; None: told by the shape.
        values: the lowest and highest value, which become black and white; None: 0 and 255 of whole numbers, 0 and 1 of
            others, where they lie between.
        in_memory: True, False (a .npy file is memory-mapped), or auto: held up to 1 GiB.

    Raises:
        ValueError: an option, or the arrays do not fit; names the option.
    """
    if in_memory not in (True, False, "auto"):
        raise ValueError(f"data.in_memory must be true, false or auto, got {in_memory!r}")
    height_width(size)
    chosen, values = choose_arrays(root, label_file, key, label_key), check_gray_range(values)
    labels, classes = _labels(chosen)
    parts: dict[str, Images | MappedImages] = {}
    for split, (header, _) in chosen.items():
        order = axes_of(header.shape, axes)
        _check_channels(dict(zip(order, header.shape, strict=True)).get("C", 1), channels)
        array = load_array(header)
        mapped = MappedImages(array, order, channels, _value_range(root, array, values), labels[split])
        held = in_memory is True or (in_memory == "auto" and array.size <= HELD) or header.file.suffix == ".npz"
        if in_memory is False and header.file.suffix == ".npz":
            raise ValueError(
                f"data.in_memory=false: {header.file} cannot be memory-mapped; save its arrays as .npy files"
            )
        parts[split] = _held(mapped) if held else mapped
    return Splits(parts["train"], parts.get("test"), parts.get("val"), classes)


def _held(mapped: MappedImages) -> Images:
    blocks = torch.arange(len(mapped)).split(BLOCK)
    return Images(torch.cat([pixels for pixels, _ in mapped.plain(list(blocks))]), mapped.labels)


def _check_channels(stored: int, channels: int) -> None:
    if channels not in (1, 3) or stored not in (1, 3):
        raise ValueError(f"data.channels={channels}, and the images have {stored}; both must be 1 or 3")


def _value_range(root: str, array: np.ndarray, values: GrayRange | None) -> GrayRange | None:
    """The values that become black and white; None: uint8 as it is.

    Raises:
        ValueError: they are not known; one line with what is there.
    """
    if array.dtype == bool:
        return (0, 1)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"data.root={root}: images must be numbers, these are of type {array.dtype}")
    if values is None and array.dtype == np.uint8:
        return None
    step = max(1, len(array) // LOOKED_AT) if isinstance(array, np.memmap) and array.size > HELD else 1
    low, high = float(np.nanmin(array[::step])), float(np.nanmax(array[::step]))
    if values is not None:
        if high <= values[0] or low >= values[1]:
            raise ValueError(
                f"data.range={list(values)}: the values in data.root={root} are from {low:g} to {high:g}, which would "
                "all be black or white; type their data.range (another command than train.py takes the run's)"
            )
        return values
    usual = (0, 1) if array.dtype.kind == "f" else (0, 255)
    if not (usual[0] <= low and high <= usual[1]):
        raise ValueError(
            f"data.root={root}: values of type {array.dtype} from {low:g} to {high:g} have no known range; set it by "
            f"'data.range=[LOW,HIGH]', such as [{low:.6g},{high:.6g}]: what becomes black and white, others are clipped"
        )
    return usual


def _to_pixels(array: np.ndarray, axes: str, channels: int, values: GrayRange | None) -> Tensor:
    """Rows of an array -> (b, C, H, W) uint8."""
    if values is not None:
        low, high = values
        scaled = (np.nan_to_num(array.astype(np.float32), nan=low) - low) * (255 / (high - low))
        array = scaled.clip(0, 255).round().astype(np.uint8)
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    if axes == "NHW":
        pixels = pixels.unsqueeze(1)
    elif axes == "NHWC":
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] > channels:  # color as gray, as Pillow makes it
        weights = torch.tensor([19595, 38470, 7471]).view(1, 3, 1, 1)
        pixels = ((pixels * weights).sum(1, keepdim=True) + 32768 >> 16).byte()
    return pixels.expand(-1, channels, -1, -1).contiguous()


def _labels(chosen: Mapping[str, Chosen]) -> tuple[dict[str, Tensor | None], list[str]]:
    """Split -> labels, and the names of the classes; a line says where they were found."""
    found = {split: part.labels for split, part in chosen.items()}
    if rank() == 0:
        for split, (images, labels) in chosen.items():
            words = "no labels" if labels is None else f"labels {labels.name}"
            print(f"files    {split}: images {images.name} {images.shape} {images.dtype}, {words}")
    if any(header is None for header in found.values()):
        return dict.fromkeys(found), []
    codes, classes = encode_labels({split: load_array(header) for split, header in found.items() if header})
    return dict(codes), classes
