"""Runs in this process, as the commands run them; and in one that kills itself."""

import contextlib
import csv
import os
import signal
from pathlib import Path

import torch
from composing import composed
from conftest import TINY, config
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback
from omegaconf import DictConfig

from repel.cli.checks import check
from repel.cli.hydra_errors import explain
from repel.engine import checkpoint_io, runs
from repel.engine.build import build_data, build_module, build_trainer
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit
from repel.module import Contrastive


def train(folder: Path, *overrides: str, resume: bool = False) -> dict[str, torch.Tensor]:
    """Train in this process, as train.py does; returns the last checkpoint's weights."""
    cfg = config(*TINY, *overrides)
    if not resume:
        runs.create(folder, to_container(cfg), list(overrides))
    fit(load_config(runs.current_config(folder)), folder, resume)
    return checkpoint_io.load(folder / "checkpoints/last.ckpt")["state_dict"]


def train_until_killed(folder: str, step: int) -> None:
    """In a process of its own: kill -9 itself after the given number of batches."""
    from repel.module import Contrastive

    torch.set_num_threads(1)
    patch_dropout()
    seen = []

    def die(self, *args):
        seen.append(1)
        if len(seen) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Contrastive.on_train_batch_end = die
    fit(load_config(runs.read_config(Path(folder))), Path(folder), resume=False)


def patch_dropout():
    """A head that draws random numbers of its own."""
    import repel.model.heads

    def linear(in_features, out_features):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(in_features, out_features))

    repel.model.heads.linear = linear


def table(path: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    rows = csv.DictReader(path.read_text().splitlines())
    return [tuple(row[c] for c in columns) for row in rows if row["train/loss"] or row["val/loss"]]


LAYERNORM = [  # a network without batch norm, whose training does not depend on how the batch is divided
    "encoder=timm", "encoder.name=vit_tiny_patch16_224", "head=linear", "trainer.precision=64-true",
    "+encoder.options={img_size:28,patch_size:14,embed_dim:8,depth:1,num_heads:2}",
]  # fmt: skip


class PoisonAtStep:
    """The given optimizer step leaves a weight that is no number."""

    def __init__(self, step: int):
        self.step, self.steps = step, 0

    @contextlib.contextmanager
    def armed(self):
        usual = Contrastive.optimizer_step

        def poison(module, *args, **kwargs):
            usual(module, *args, **kwargs)
            self.steps += 1
            if self.steps == self.step:
                with torch.no_grad():
                    next(module.encoder.parameters()).fill_(torch.nan)

        Contrastive.optimizer_step = poison
        try:
            yield
        finally:
            Contrastive.optimizer_step = usual


def fitted(folder: Path, *overrides: str, callback: Callback):
    """A module after training, watched by a callback."""
    cfg = config(*TINY, *overrides)
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg, folder, None)
    trainer.callbacks.append(callback)
    trainer.fit(module, data)
    return module


def status(folder: Path, *overrides: str) -> tuple[int, str]:
    """Exit status and line of `python train.py ...`, through the command's own checks and training, in this process."""
    return status_of(folder, composed("train", list(overrides), hydra=True))


def status_of(folder: Path, cfg: DictConfig) -> tuple[int, str]:
    """The same of a config that is composed, Hydra's own part included."""
    HydraConfig.instance().set_config(cfg)
    cfg._set_flag("struct", False)
    del cfg["hydra"]
    try:
        check(cfg, "train")
        runs.create(folder, to_container(cfg), [])
        fit(cfg, folder, resume=False)
    except Exception as error:
        return explain(error, "train")
    return 0, ""


def history(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def health_lines(folder) -> list[str]:
    file = folder / "health.txt"
    return file.read_text().splitlines() if file.exists() else []
