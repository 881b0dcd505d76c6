"""A run's folder with checkpoints of random weights, images, and the commands that export, in this process."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composing import composed
from conftest import config, make_folder
from omegaconf import OmegaConf
from PIL import Image

from repel.cli.resume import prepare_output
from repel.engine import checkpoint_io
from repel.engine.build import build_module
from repel.engine.configs import to_container
from repel.export.embed import embed
from repel.export.mine_negatives import mine_negatives
from repel.images.shapes import height_width


def checkpoint(folder: Path, *overrides: str, name: str = "best", epoch: int = 2) -> Path:
    """A run folder with a checkpoint, as training leaves it, whose batch norms have seen something."""
    cfg = config("head.out_features=6", *overrides)
    module = build_module(cfg)
    size, channels = cfg.data.image_size, cfg.data.channels
    for _ in range(3):
        module.head(module.encoder(torch.randn(8, channels, *height_width(size)) * 2 + 1))
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    contents = {"config": to_container(cfg), "state_dict": module.state_dict(), "epoch": epoch, "global_step": 7}
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(contents, folder / f"checkpoints/{name}.ckpt")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on the bundled images."""
    folder = checkpoint(tmp_path_factory.mktemp("run"), "encoder.width=4")
    return checkpoint(folder, "encoder.width=4", "seed=2", name="last", epoch=4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two splits of two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    make_folder(folder / "train", ["red", "green"], 4)
    make_folder(folder / "test", ["green"], 3, size=(20, 9))
    for number, file in enumerate(sorted(folder.rglob("*.png"))):  # coarser than noise, so that they look unlike
        coarse = np.random.default_rng(number).integers(0, 256, (3, 3, 3), np.uint8)
        Image.fromarray(coarse).resize(Image.open(file).size, Image.Resampling.NEAREST).save(file)
    return folder


@pytest.fixture
def done(monkeypatch, tmp_path):
    """What a command does, in this process: done(embed, "ckpt=...") -> its folder."""

    def call(task, *typed: str, name: str = "out") -> Path:
        job = SimpleNamespace(overrides=SimpleNamespace(task=OmegaConf.create(list(typed))))
        monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: job)
        cfg, folder = composed(task.__name__, list(typed)), tmp_path / name  # interpolations stay, as in the command
        folder.mkdir()
        prepare_output(cfg, folder)
        task(cfg, folder, *([list(typed)] if task in (embed, mine_negatives) else []))
        return folder

    return call


def folder_data(root: Path, *more: str) -> list[str]:
    return ["data=image_folder", f"data.root={root}", *more]


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))
