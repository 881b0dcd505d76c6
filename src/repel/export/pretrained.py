"""The trained network of a checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module
from repel.engine.configs import load_config
from repel.images.views.normalize import Normalize

UNTRAINED = {"weights": None, "pretrained": False}  # the checkpoint has the weights: nothing is downloaded for them


class Trained(NamedTuple):
    """Encoder and head in eval mode, in float32 on the CPU, with the run's config and where they come from.

    epoch: epochs of training, step: optimiser steps.
    """

    encoder: nn.Module
    head: nn.Module
    config: dict[str, Any]
    path: Path
    epoch: int
    step: int

    @property
    def normalize(self) -> Normalize:
        return Normalize(self.config["data"]["mean"], self.config["data"]["std"])

    @property
    def source(self) -> dict[str, Any]:
        """Where the weights come from, for the files made with them."""
        return {"checkpoint": str(self.path), "epoch": self.epoch, "step": self.step}


def chosen(ckpt: str, checkpoint: str | None) -> Path:
    """The file that was meant: a checkpoint itself, or a run's best on validation, or its last.

    Raises:
        ValueError: it is not there.
    """
    given = Path(ckpt).expanduser()
    if given.is_file():
        if checkpoint is not None:
            raise ValueError(f"checkpoint={checkpoint} chooses among a run's; leave it out, as ckpt={ckpt} is a file")
        return given.resolve()
    path = runs.find(ckpt) / "checkpoints" / f"{checkpoint or 'best'}.ckpt"
    if not path.is_file() and checkpoint is None and path.with_name("last.ckpt").is_file():
        raise ValueError(f"ckpt={ckpt} has no best.ckpt; add checkpoint=last")
    return path


def load(ckpt: str, checkpoint: str | None) -> Trained:
    """The network of a run folder or a checkpoint file.

    Args:
        ckpt: the folder or file.
        checkpoint: of a folder, best or last; None: best.

    Raises:
        ValueError: it is not there, or no checkpoint.
    """
    path = chosen(ckpt, checkpoint)
    contents = checkpoint_io.load(path)
    config = contents["config"]
    encoder = config["encoder"] | {key: value for key, value in UNTRAINED.items() if key in config["encoder"]}
    module = build_module(load_config(config | {"encoder": encoder}))
    for name, part in (("encoder", module.encoder), ("head", module.head)):
        state = contents["state_dict"].items()
        part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state if k.startswith(f"{name}.")})
        part.eval()
    return Trained(module.encoder, module.head, config, path, contents["epoch"] + 1, contents["global_step"])


def device_of(accelerator: str) -> torch.device:
    """Raises ValueError where a GPU was asked for and there is none."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator=gpu: there is no GPU that torch can use; use cpu or auto")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
