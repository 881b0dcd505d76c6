"""repel search: the images or texts of an embedded set that are nearest to a query."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from repel.base.drawing import sheet_font
from repel.base.naming import close_names
from repel.base.terminal import shown
from repel.data.samples import UnreadableSample, split_parts
from repel.engine.build import build_data
from repel.engine.configs import load_config
from repel.engine.pretrained import PretrainedEncoder, find_checkpoint, load_pretrained
from repel.evaluation.features import encode
from repel.export.embed import FeatureLayers
from repel.export.record import name_column, read_record
from repel.images.contact_sheet import CELL, picture
from repel.images.decode import decode, decode_files, reason
from repel.images.memory import Images
from repel.images.views.normalize import Normalize
from repel.text.texts import RawTexts

__all__ = [
    "Embedded",
    "Match",
    "draw_matches",
    "name_feature",
    "nearest_matches",
    "open_folder",
    "query_feature",
    "read_pictures",
    "side_of",
    "text_feature",
]

LINE, LINES, GAP, COLUMNS_OF_SHEET = 12, 3, 6, 5  # pixels; lines of text under a picture; pixels; pictures in a row


class Embedded(NamedTuple):
    """What embed.py wrote: features (N, F), and the file, text or name, split and label of each row."""

    record: dict[str, Any]
    layer: str
    features: torch.Tensor
    rows: list[tuple[str, str, str]]


class Match(NamedTuple):
    """One sample of the set: its cosine similarity to the query, its file, text or name, split and class."""

    similarity: float  # cosine, in [-1, 1]
    file: str  # or the text, or the name
    split: str
    label: str  # empty where unknown


def open_folder(folder: Path, layer: str | None, data_root: str | None) -> Embedded:
    """Read a folder that embed.py wrote.

    Args:
        layer: h or z; None: h where it is there.
        data_root: where the images are now, if they moved.

    Raises:
        ValueError: the folder holds no features, or not of this layer.
    """
    record = read_record(folder)
    layer = layer or next(iter(record["layers"]))
    if layer not in record["layers"]:
        raise ValueError(f"{folder} has no layer {layer}, only {', '.join(record['layers'])}")
    if data_root is not None:
        if "root" not in record["data"]:
            raise ValueError("data_root: this data has no root; leave it out")
        record["data"]["root"] = record["data"]["datamodule"]["read"]["root"] = data_root
    file, heads = folder / record["layers"][layer]["file"], (name_column(record), "split", "label")
    if file.suffix == ".npy":
        features = np.load(file)
        with (folder / "index.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as index:
            rows = [(row[heads[0]], row["split"], row["label"]) for row in csv.DictReader(index)]
    else:
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        features = table[layer].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        rows = list(zip(*(table[head].to_pylist() for head in heads), strict=True))
    return Embedded(record, layer, torch.from_numpy(features.copy()), rows)


def query_feature(query: Path, embedded: Embedded, ckpt: str | None) -> torch.Tensor:
    """The query's feature (F,): by the checkpoint that made the others, from an image prepared as these were.

    Args:
        ckpt: where the checkpoint, or its run, is now, if it moved.

    Raises:
        ValueError: the checkpoint is not the one that made the features, or the query cannot be read.
    """
    record = embedded.record
    try:
        pixels = decode(query, record["image_size"], record["channels"], record["data"].get("range"))
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise ValueError(f"cannot read the image {shown(query)} ({reason(error)})") from error
    images = Images(torch.from_numpy(pixels.copy())[None])
    normalize = Normalize(record["mean"], record["std"])  # embed.py may have been given others than the run's
    layers = FeatureLayers(_trained(record, ckpt), embedded.layer)
    return encode(layers, images, normalize, torch.device("cpu"))[0][0]


def text_feature(query: str, embedded: Embedded, ckpt: str | None) -> torch.Tensor:
    """The same of a text, by the run's own tokenizer.

    Raises:
        ValueError: the checkpoint is not the one that made the features, or the query has no word.
    """
    trained = _trained(embedded.record, ckpt)
    data = build_data(load_config({"data": embedded.record["data"]}), trained.learned)
    assert data.transform is not None, "texts have a tokenizer"
    texts: Any = data.transform(RawTexts.of([query]))
    if not texts.x.any():
        raise ValueError("the query has no words: repel search 'a small bird' EMBED_FOLDER")
    return encode(FeatureLayers(trained, embedded.layer), texts, data.normalize, torch.device("cpu"))[0][0]


def _trained(record: dict[str, Any], ckpt: str | None) -> PretrainedEncoder:
    """The network that made the features."""
    path = _checkpoint_file(record["checkpoint"], ckpt)
    if not Path(path).expanduser().is_file():
        raise ValueError(f"there is no checkpoint {path}; name the one that made the features: ckpt=FILE")
    trained = load_pretrained(path, None)
    if (trained.epoch, trained.step) != (record["epoch"], record["step"]):
        raise ValueError(
            f"{path} is of epoch {trained.epoch}, step {trained.step}; the features were made at epoch "
            f"{record['epoch']}, step {record['step']}: make them again, or name that checkpoint: ckpt=FILE"
        )
    return trained


def _checkpoint_file(recorded: str, ckpt: str | None) -> str:
    """The file that made the features: as recorded, or as typed; of a run's folder its checkpoint of the same name."""
    if ckpt is None or not Path(ckpt).expanduser().is_dir():
        return ckpt or recorded
    name = Path(recorded).stem
    return str(find_checkpoint(ckpt, name if name in ("best", "last") else None))


def side_of(embedded: Embedded, side: str) -> Embedded:
    """The users alone, or the items, which are their own split."""
    places = [place for place, (_, split, _) in enumerate(embedded.rows) if split == side]
    return embedded._replace(features=embedded.features[places], rows=[embedded.rows[place] for place in places])


def name_feature(name: str, embedded: Embedded) -> torch.Tensor:
    """The feature (F,) of the user or item of this name.

    Raises:
        ValueError: there is none.
    """
    names = [row[0] for row in embedded.rows]
    if name not in names:
        raise ValueError(f"there is no {name} among the {embedded.rows[0][1]}{close_names(name, names)}")
    return embedded.features[names.index(name)]


def nearest_matches(feature: torch.Tensor, embedded: Embedded, k: int) -> list[Match]:
    """The k rows of the highest cosine similarity, the highest first; all where there are fewer."""
    similarity = F.normalize(embedded.features, dim=1) @ F.normalize(feature, dim=0)
    values, places = similarity.topk(min(k, len(similarity)))
    return [Match(float(s), *embedded.rows[i]) for s, i in zip(values, places.tolist(), strict=True)]


def read_pictures(matches: list[Match], record: dict[str, Any]) -> list[torch.Tensor | None]:
    """Each match's image (C, H, W) uint8, from its file, or from the data where it has no files; None where it is gone.

    Raises:
        ValueError: the data cannot be read.
    """
    root = record["data"].get("root")
    files = [] if root is None else [Path(root).expanduser() / f.file for f in matches]
    if any(file.is_file() for file in files):
        arrays, errors = decode_files(files, CELL, record["channels"], record["data"].get("range"))
        return [None if i in errors else torch.from_numpy(array) for i, array in enumerate(arrays)]
    try:
        parts = split_parts(build_data(load_config({"data": record["data"]})).read())
    except ValueError as error:
        raise ValueError(f"{error}; where the images moved, add data_root=DIR") from error
    names = {split: part.modality.columns(part, split)["file"] for split, part in parts.items()}
    places = {split: {name: i for i, name in enumerate(files)} for split, files in names.items()}
    wanted = [places.get(f.split, {}).get(f.file) for f in matches]
    try:
        return [
            None if place is None else next(iter(parts[f.split].plain([torch.tensor([place])])))[0][0]
            for f, place in zip(matches, wanted, strict=True)
        ]
    except UnreadableSample as error:
        raise ValueError(str(error)) from error


def draw_matches(
    query: Path, matches: list[Match], pictures: list[torch.Tensor | None], record: dict[str, Any]
) -> Image.Image:
    """A sheet: the query, then the matches in rows, nearest first, with class, cosine and file."""
    across, cell = min(COLUMNS_OF_SHEET, len(matches)), CELL + GAP
    tall = CELL + LINES * LINE + GAP
    sheet = Image.new("RGB", (across * cell + GAP, (1 + -(-len(matches) // across)) * tall + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    cells: list[tuple[torch.Tensor | None, list[str]]]
    pixels = decode(query, CELL, record["channels"], record["data"].get("range"))
    cells = [(torch.from_numpy(pixels.copy()), ["query", query.name])]
    cells += [
        (pixels, [f.label or f.split, f"{f.similarity:.4f}", f.file])
        for f, pixels in zip(matches, pictures, strict=True)
    ]
    for number, (cell_pixels, lines) in enumerate(cells):
        row, column = (0, 0) if number == 0 else (1 + (number - 1) // across, (number - 1) % across)
        left, top = GAP + column * cell, GAP + row * tall
        if cell_pixels is not None:
            sheet.paste(picture(cell_pixels), (left, top))
        pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline="black" if number == 0 else "lightgray")
        for i, text in enumerate(lines):
            font = sheet_font(shown(text), LINE - 1)
            pen.text((left, top + CELL + i * LINE), _shorten(shown(text), font), "black", font)
    return sheet


def _shorten(text: str, font: Any) -> str:
    """The end of a text, as much as fits under a picture: of a file's path, the part that differs from others."""
    if font.getlength(text) <= CELL:
        return text
    while font.getlength("\N{HORIZONTAL ELLIPSIS}" + text) > CELL:
        text = text[1:]
    return "\N{HORIZONTAL ELLIPSIS}" + text
