"""init=RUN_OR_FILE: a new run starts from trained weights, of a run, a checkpoint or a safetensors file.

What fits by name and shape is taken; the rest of the network stays as it was initialized.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from repel.base.sized import SizedByData
from repel.data.samples import Transform
from repel.engine import checkpoint_io, runs
from repel.module import Contrastive

__all__ = ["Weights", "read_weights", "start_from"]

SHOWN = 3  # tensors that a line names


class Weights(NamedTuple):
    """Tensors by name, and where they are from: file, sha256, and of a checkpoint epoch and step.

    learned: of a checkpoint, what its data had learned from training samples, such as a tokenizer; or None.
    """

    tensors: dict[str, Tensor]
    source: dict[str, Any]
    learned: dict[str, str] | None = None

    def give_learned(self, transform: Transform | None, cfg: DictConfig) -> None:
        """What a new run's data need not learn, as its encoder starts from these weights; of a safetensors file from
        files beside it, as export.py writes them.

        Raises:
            ValueError: it is not there, or an option asks for another.
        """
        if transform is None or "encoder" not in cfg.init_parts:
            return
        beside = [Path(self.source["file"]).with_name(name) for name in transform.files]
        learned = self.learned
        if learned is None and all(file.is_file() for file in beside):
            learned = {file.name: file.read_text(encoding="utf-8") for file in beside}
        transform.inherit(learned, f"init={cfg.init}")


class Fit(NamedTuple):
    """What a part of the network took: how many tensors of its own, which not and why, which of the file it lacks."""

    part: str
    taken: int
    left: dict[str, str]
    unused: list[str]

    def __str__(self) -> str:
        left = [f"{name} ({why})" for name, why in self.left.items()]
        return (
            f"{self.taken} of {self.taken + len(self.left)} tensors of the {self.part}"
            + (f", left as initialized: {_listed(left)}" if left else "")
            + (f", not in this network: {_listed(self.unused)}" if self.unused else "")
        )


def read_weights(init: str) -> Weights:
    """The weights that init= names; of a run those of its headline, or else of its other checkpoint.

    Raises:
        ValueError: no such run or file, or it is damaged.
    """
    path = _file(init)
    with path.open("rb") as file:
        source = {"file": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    if path.suffix == ".safetensors":
        try:
            return Weights(load_file(path), source)
        except SafetensorError as error:
            raise ValueError(f"init={init}: {path} is damaged or no safetensors file ({error})") from error
    contents = checkpoint_io.load(path)
    source |= {"epoch": contents["epoch"] + 1, "step": contents["global_step"]}
    return Weights(contents["state_dict"], source, contents.get("learned"))


def _file(init: str) -> Path:
    given = Path(init).expanduser().resolve()
    if not given.exists():
        raise ValueError(f"init={init}: there is no such run, checkpoint or safetensors file")
    if given.is_file():
        return given
    config = runs.read_config(given) if (given / "config.yaml").is_file() else {}
    headline = (config.get("evaluation") or {}).get("checkpoint", "best")  # as find_checkpoint has it
    names = *(f"checkpoints/{name}.ckpt" for name in (headline, "best", "last")), "encoder.safetensors"  # of export.py
    found = next((given / name for name in names if (given / name).is_file()), None)
    if found is None:
        raise ValueError(f"init={init}: there is no checkpoint in {runs.find(init)}")
    return found


def start_from(weights: Weights, cfg: DictConfig, module: Contrastive, folder: Path, say: bool) -> None:
    """Give the parts of a new run's network that init_parts names the weights that fit.

    Args:
        folder: the run's, whose environment.json keeps where they are from.
        say: print which fitted and which did not, and write the record: the first rank does.

    Raises:
        ValueError: the network has no such part, or no weight fits it.
    """
    fits = []
    for part in cfg.init_parts:
        network = getattr(module, part)
        if network is None:
            raise ValueError(f"init_parts names the {part}, and this run has none; leave it out")
        fits.append(_take(network, part, weights.tensors, cfg.init))
    module.start_target()
    for fit in fits if say else ():
        print(f"init     {os.path.relpath(weights.source['file'])}: {fit}")
    if say:
        runs.update_environment(folder, init=weights.source | {fit.part: fit._asdict() for fit in fits})


def _take(network: nn.Module, part: str, tensors: dict[str, Tensor], init: str) -> Fit:
    shown = _shown_data(network)
    own = {name: tensor for name, tensor in network.state_dict().items() if name not in shown}
    named = {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
    if not named and part == "encoder":  # a file of the encoder alone
        named = dict(tensors)
    inner = {f"net.{name}": tensor for name, tensor in named.items()}  # of a library's model in an encoder of ours
    theirs = max((named, inner), key=lambda names: len(names.keys() & own.keys()))
    other = _of_other_data(network, theirs)
    left = {
        name: why
        for name, tensor in own.items()
        if (why := "for other data" if name.startswith(other) else _misfit(tensor, theirs.get(name)))
    }
    theirs = {name: tensor for name, tensor in theirs.items() if name not in shown}
    learned = dict(network.named_parameters())
    if learned.keys() <= left.keys():
        name = next(iter(learned))
        raise ValueError(
            f"init={init}: none of its weights fit the {part}, whose first, {name}, is {left[name]}; choose the "
            "network that the weights are of, or the data, where this says the size"
            f"{', or leave the part out of init_parts' * (part != 'encoder')}"
        )
    network.load_state_dict(network.state_dict() | {name: theirs[name] for name in own if name not in left})
    return Fit(part, len(own) - len(left), left, [name for name in theirs if name not in own])


def _shown_data(network: nn.Module) -> set[str]:
    """Names of the buffers that are training data, see SizedByData."""
    parts = [
        (prefix, one) for prefix, one in network.named_modules() if isinstance(one, SizedByData) and one.shows_data
    ]
    return {f"{prefix}.{name}".lstrip(".") for prefix, one in parts for name, _ in one.named_buffers(recurse=False)}


def _of_other_data(network: nn.Module, theirs: dict[str, Tensor]) -> tuple[str, ...]:
    """Prefixes of the parts whose weights in a file are for something else, see SizedByData.weights_of."""
    parts = ((f"{prefix}.", one, f"{prefix}.{one.weights_of}") for prefix, one in network.named_modules()
             if isinstance(one, SizedByData) and one.weights_of)  # fmt: skip
    return tuple(
        prefix
        for prefix, one, name in parts
        if name not in theirs or not torch.equal(theirs[name].cpu(), getattr(one, one.weights_of).cpu())
    )


def _misfit(here: Tensor, there: Tensor | None) -> str:
    if there is None:
        return "absent there"
    return "" if here.shape == there.shape else f"{tuple(there.shape)} there, {tuple(here.shape)} here"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
