"""embed.py: features of every sample of a set, with names or texts, in files that other programs read."""

import copy
import csv
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from repel.base.installation import install_extra
from repel.base.terminal import shown
from repel.data.datamodule import PairData
from repel.data.samples import Samples, Splits
from repel.data.splits import label_by_table
from repel.engine import runs
from repel.engine.build import build_data
from repel.engine.configs import load_config
from repel.engine.data_identity import hint_of_data_root, is_own_data, print_changes, with_data
from repel.engine.pretrained import PretrainedEncoder, load_pretrained, select_device
from repel.evaluation.features import encode
from repel.evaluation.modality import Modality
from repel.export.record import RECORD
from repel.images.encoded import Encoded
from repel.images.shapes import height_width

__all__ = ["FeatureLayers", "embed", "label_words"]

Columns = dict[str, list[str]]  # head -> what each row has


class FeatureLayers(nn.Module):
    """An encoder's input -> h (B, F), z (B, D), or both, concatenated (B, F + D)."""

    def __init__(self, trained: PretrainedEncoder, layer: str):
        super().__init__()
        self.encoder, self.head, self.layer = trained.encoder, trained.head, layer

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        if self.layer == "h":
            return h
        z = self.head(h)
        return z if self.layer == "z" else torch.cat([h, z], dim=1)

    def split(self, features: Tensor) -> dict[str, Tensor]:
        """Layer -> its columns of the features."""
        if self.layer != "both":
            return {self.layer: features}
        width = self.encoder.out_features
        return {"h": features[:, :width], "z": features[:, width:]}


def embed(cfg: DictConfig, folder: Path, overrides: Collection[str] = ()) -> None:
    """Write features of all samples of all splits as read, before any are held out; of pairs, of all users and items.

    Files: features.npy and index.csv, or features.parquet; embedding.json; skipped.txt where files were skipped.

    Args:
        overrides: as typed; see with_data.

    Raises:
        ValueError: the user's mistake.
        UnreadableSample: a file that cannot be read, where the user did not ask to skip such files.
    """
    _check_format(cfg.format)
    device = select_device(cfg.accelerator)
    trained = load_pretrained(cfg.ckpt, cfg.checkpoint)
    config = with_data(cfg, trained.config, overrides)
    loaded = load_config(config)
    own, data = is_own_data(loaded, trained.config, cfg.get("data")), build_data(loaded, trained.learned)
    layers = FeatureLayers(trained, cfg.layer).eval().to(device)
    if "image_size" in config["data"]:
        _check_shape(layers, config["data"], data, device)
    with hint_of_data_root(loaded) if own else nullcontext():
        splits = _read_splits(data)
    if own:
        print_changes(trained.samples, splits)
    modality: Modality = splits.train.modality
    embedded, classes = modality.embedded(splits)
    parts, index, skipped = [], [], list(splits.skipped)
    for name, samples in embedded.items():
        features, places = encode(layers, samples, data.normalize, device)
        parts.append(features.cpu())
        index.append(_describe(samples, name, classes, places))
        skipped += _describe_unread(samples, places)
        print(f"{name:<8} {len(places):,}" + f" {modality.noun}" * (not modality.sides))
    features = torch.cat(parts)
    arrays = {layer: part.numpy() for layer, part in layers.split(features).items()}
    columns = {head: [value for part in index for value in part[head]] for head in index[0]}
    write = {"npy": _write_npy, "parquet": _write_parquet}[cfg.format]
    record = trained.source | {
        "layers": write(folder, arrays, columns),
        **({name: len(part) for name, part in embedded.items()} if modality.sides else {modality.noun: len(features)}),
        **{key: config["data"][key] for key in modality.input_options if key in config["data"]},
        "classes": classes,
        "data": _data_record(config["data"]),
    }
    runs.write_json(folder / RECORD, record)
    if skipped:
        (folder / "skipped.txt").write_text("\n".join(skipped) + "\n", encoding="utf-8")
        print(f"skipped  {len(skipped)} unreadable files, listed in skipped.txt, the first: {skipped[0]}")


def _data_record(config: dict[str, Any]) -> dict[str, Any]:
    """The data's config, from which search reads the images again: without views, with an absolute root."""
    config = copy.deepcopy(config)
    config["datamodule"]["views"] = None
    if "root" in config:
        root = str(Path(config["root"]).expanduser().resolve())
        config["root"] = config["datamodule"]["read"]["root"] = root
    return config


def _check_format(format: str) -> None:
    """Raises ValueError where a package for the format is missing; before anything is read."""
    if format == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError(f"format=parquet needs pyarrow: {install_extra('parquet')}") from error


def _check_shape(layers: FeatureLayers, config: dict[str, Any], data: PairData, device: torch.device) -> None:
    """Raises ValueError where the encoder cannot take images of this shape, which is tried before the data is read."""
    size = config["image_size"]
    with torch.no_grad():
        try:
            layers(data.normalize(torch.zeros(1, config["channels"], *height_width(size), device=device)))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"the encoder cannot take images of data.channels={config['channels']} data.image_size={size} "
                f"({error}); leave these options out to use the run's own"
            ) from error


def _read_splits(data: PairData) -> Splits:
    """The data as its reader splits it, nothing held out."""
    splits = data.read()
    if data.table is None or splits.train.labels is not None:
        return splits
    data.print_table_notes(splits)
    return label_by_table(splits, data.table)


def _describe(samples: Samples, split: str, classes: list[str], places: Tensor) -> Columns:
    """Names or texts, split and class of each sample that was read; the class is empty where unknown."""
    words = label_words(samples, classes) or [""] * len(samples)
    read, known = places.tolist(), samples.modality.columns(samples, split)
    columns = {head: [values[i] for i in read] for head, values in known.items()}
    return columns | {"split": [split] * len(read), "label": [words[i] for i in read]}


def label_words(samples: Samples, classes: list[str]) -> list[str] | None:
    """The class of each sample, empty where unknown; None where the data has no labels."""
    if samples.labels is None:
        return None
    return ["" if y < 0 else classes[y] if classes else str(y) for y in samples.labels.tolist()]


def _describe_unread(samples: Samples, places: Tensor) -> list[str]:
    """A line for each image that could not be read, with the reason."""
    lines: list[str] = []
    for place in sorted(set(range(len(samples))) - set(places.tolist())):
        assert isinstance(samples, Encoded), "what is held in memory was read"
        samples.read_or_skip(place, samples.center, lines)
    return lines


def _write_npy(folder: Path, arrays: dict[str, np.ndarray], columns: Columns) -> dict[str, Any]:
    """features.npy of one layer, or features_h.npy and features_z.npy (N, F) float32; index.csv (N rows).

    Returns:
        layer -> its file and width.
    """
    files = {layer: "features.npy" if len(arrays) == 1 else f"features_{layer}.npy" for layer in arrays}
    for layer, features in arrays.items():
        np.save(folder / files[layer], features)
    # names that are not valid UTF-8 keep their bytes
    with (folder / "index.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = zip(*columns.values(), strict=True)
        csv.writer(file).writerows([("row", *columns), *((i, *row) for i, row in enumerate(rows))])
    return {layer: {"file": files[layer], "features": arrays[layer].shape[1]} for layer in arrays}


def _write_parquet(folder: Path, arrays: dict[str, np.ndarray], columns: Columns) -> dict[str, Any]:
    """features.parquet: row, file or text, split, label, and a list of float32 for each layer, named h or z."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: dict[str, Any] = {"row": pa.array(range(len(columns["split"])), pa.int64())}
    for name, column in columns.items():
        table[name] = pa.array([shown(text) if name == "file" else text for text in column])
    for layer, features in arrays.items():
        table[layer] = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    pq.write_table(pa.table(table), folder / "features.parquet")
    return {layer: {"file": "features.parquet", "features": arrays[layer].shape[1]} for layer in arrays}
