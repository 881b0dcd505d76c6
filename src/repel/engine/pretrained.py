"""The trained network of a checkpoint, for reports, features and exports."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module
from repel.engine.configs import load_config

if TYPE_CHECKING:
    from repel.images.views.normalize import Normalize

__all__ = [
    "PretrainedEncoder",
    "build_pretrained",
    "find_checkpoint",
    "load_pretrained",
    "select_device",
    "without_weights",
]


class PretrainedEncoder(NamedTuple):
    """Encoder and head in eval mode, in float32 on the CPU, with the run's config and the checkpoint they come from.

    epoch: epochs of training. step: optimizer steps. samples: which the run has, see data/identity.py, where known.
    learned: what its data has learned from training samples, such as a tokenizer; or None.
    """

    encoder: nn.Module
    head: nn.Module
    config: dict[str, Any]
    path: Path
    epoch: int
    step: int
    samples: dict[str, Any] | None
    learned: dict[str, str] | None = None

    @property
    def normalize(self) -> "Normalize":
        """Images -> what the encoder takes."""
        from repel.images.views.normalize import Normalize

        return Normalize(self.config["data"]["mean"], self.config["data"]["std"])

    @property
    def source(self) -> dict[str, Any]:
        """Checkpoint, epoch and step, to be written into files made with these weights."""
        return {"checkpoint": str(self.path), "epoch": self.epoch, "step": self.step}


def load_pretrained(ckpt: str, checkpoint: str | None = None) -> PretrainedEncoder:
    """The network of a run folder or a checkpoint file.

    Args:
        ckpt: the folder or file.
        checkpoint: of a folder, best or last; None: the one whose metrics are called test/x, see find_checkpoint.

    Raises:
        ValueError: the file is missing, damaged, or not a checkpoint.
    """
    path = find_checkpoint(ckpt, checkpoint)
    return build_pretrained(checkpoint_io.load(path), path)


def build_pretrained(contents: dict[str, Any], path: Path) -> PretrainedEncoder:
    """The network of a checkpoint's contents, read from this path."""
    config = contents["config"]
    module = build_module(load_config(without_weights(config)))
    for name, part in (("encoder", module.encoder), ("head", module.head)):
        state = contents["state_dict"].items()
        part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state if k.startswith(f"{name}.")})
        part.eval()
    epoch, step = contents["epoch"] + 1, contents["global_step"]
    further = contents.get("samples"), contents.get("learned")
    return PretrainedEncoder(module.encoder, module.head, config, path, epoch, step, *further)


def find_checkpoint(ckpt: str, checkpoint: str | None) -> Path:
    """The file that load_pretrained reads.

    Without checkpoint, of a run the one that its evaluation.checkpoint names; of a run from before there was such an
    option, the best.

    Raises:
        ValueError: there is no such run or file.
    """
    given = Path(ckpt).expanduser()
    if given.is_file():
        if checkpoint is not None:
            raise ValueError(f"checkpoint={checkpoint} chooses among a run's; leave it out, as ckpt={ckpt} is a file")
        return given.resolve()
    folder = runs.find(ckpt)
    headline = runs.read_config(folder).get("evaluation", {}).get("checkpoint", "best")
    path = folder / "checkpoints" / f"{checkpoint or headline}.ckpt"
    if not path.is_file() and checkpoint is None and path.with_name("last.ckpt").is_file():
        raise ValueError(f"ckpt={ckpt} has no best.ckpt; add checkpoint=last")
    return path


def without_weights(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config whose encoder starts from random weights, so that nothing is downloaded for it."""

    def random(node: dict[str, Any]) -> dict[str, Any]:
        off = {key: value for key, value in (("weights", None), ("pretrained", False)) if key in node}
        inner = {key: random(node[key]) for key in ("item_text",) if isinstance(node.get(key), dict)}
        return node | off | inner

    return config | {"encoder": random(config["encoder"])}


def select_device(accelerator: str) -> torch.device:
    """The device of accelerator=cpu, gpu or auto; auto: a GPU where there is one.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator=gpu: there is no GPU that torch can use; use cpu or auto")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
