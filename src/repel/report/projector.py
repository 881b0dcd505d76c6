"""The embedding projector of TensorBoard: features, names and pictures of validation samples, as files."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig
from torch import Tensor

from repel.engine.outcomes import one_line
from repel.evaluation.class_names import class_name
from repel.evaluation.features import evenly_spaced
from repel.evaluation.protocol import Part

__all__ = ["sprite_sheet", "write_projector"]

THUMBNAIL, SHEET = 32, 4096  # pixels: a picture's side at most; that of the sheet of all, which WebGL takes anywhere
EMPTY = "(no name)"  # TensorBoard skips empty lines, and would give all later points the name of another


def write_projector(folder: Path, part: Part, classes: Sequence[str], limit: int | None) -> None:
    """`projector_config.pbtxt` and `projector/` in the folder of a run's events; those of an earlier end are replaced.

    Args:
        part: labeled samples with their features.
        classes: names.
        limit: at most so many points, evenly spaced; None: all.
    """
    total = len(part.y)
    places = evenly_spaced(total, total if limit is None else limit)
    x = part.x[places.to(part.x.device)].float().cpu().numpy()
    here = folder / "projector"
    here.mkdir(parents=True, exist_ok=True)
    np.savetxt(here / "tensors.tsv", x, fmt="%.6g", delimiter="\t")
    names = [class_name(classes, label) for label in part.y[places.to(part.y.device)].tolist()]
    captions = part.samples.modality.captions(part.samples, places)
    known = {"class": names} if bool((part.y >= 0).any()) or not captions else {}
    (here / "metadata.tsv").write_text(_metadata(captions | known), encoding="utf-8")
    config = ProjectorConfig()
    config.embeddings.add(
        tensor_name="validation",
        tensor_path="projector/tensors.tsv",
        tensor_shape=x.shape,
        metadata_path="projector/metadata.tsv",
    )
    side = min(THUMBNAIL, SHEET // math.ceil(math.sqrt(len(x))))
    if (pictures := part.samples.modality.thumbnails(part.samples, places, side)) is not None:
        sprite_sheet(pictures).save(here / "sprite.png")
        config.embeddings[0].sprite.image_path = "projector/sprite.png"
        config.embeddings[0].sprite.single_image_dim.extend([pictures.shape[3], pictures.shape[2]])
    (folder / "projector_config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")


def _metadata(columns: dict[str, list[str]]) -> str:
    """A line for each point; with a line of heads where there are several columns, as the projector reads it."""
    heads = ["\t".join(columns)] * (len(columns) > 1)
    points = zip(*columns.values(), strict=True)
    lines = heads + ["\t".join(one_line(value) or EMPTY for value in point) for point in points]
    return "".join(f"{line}\n" for line in lines)


def sprite_sheet(pictures: Tensor) -> Image.Image:
    """(n, 3, h, w) floats in [0, 1] -> ceil(sqrt(n)) of them a row, as the projector reads them."""
    n, channels, height, width = pictures.shape
    columns = math.ceil(math.sqrt(n))
    sheet = np.zeros((math.ceil(n / columns) * columns, height, width, channels), np.uint8)
    sheet[:n] = pictures.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = sheet.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    return Image.fromarray(rows.reshape(-1, columns * width, channels))
