"""Words that people know from other programs, and what to type here."""

from collections.abc import Sequence
from typing import Any

__all__ = ["instead_of_flag", "instead_of_key", "instead_of_value"]

_DEVICES = "type trainer.devices=N, and trainer.accelerator=gpu or cpu to choose; CUDA_VISIBLE_DEVICES says which GPUs"
_CHECKPOINT = "resume=RUN resumes a run"
KEYS = {  # the last part of a key -> what to type
    "gpus": _DEVICES,
    "num_gpus": _DEVICES,
    "gpu": _DEVICES,
    "device": _DEVICES,
    "num_processes": _DEVICES,
    "tpu_cores": "this project trains on GPUs and CPUs: trainer.accelerator=gpu or cpu",
    "strategy": "several devices train by DDP: type trainer.devices=N",
    "nodes": "type trainer.num_nodes=N",
    "ckpt_path": _CHECKPOINT,
    "checkpoint_path": _CHECKPOINT,
    "resume_from_checkpoint": _CHECKPOINT,
    "ckpt": _CHECKPOINT,
    "epochs": "type trainer.max_epochs=N",
    "num_epochs": "type trainer.max_epochs=N",
    "num_workers": "type data.workers=N",
    "learning_rate": "type optimizer.lr=X",
    "model": "type encoder=NAME for the network, loss=NAME for the method, or experiment=NAME for a recipe",
    "model_name": "type encoder=NAME",
    "dataset": "type data=NAME",
    "datamodule": "type data=NAME",
    "data_dir": "type data.root=DIR",
    "amp": "type trainer.precision=bf16-mixed or 16-mixed",
    "fp16": "type trainer.precision=16-mixed",
    "output_dir": "type name=NAME, or hydra.run.dir=DIR",
}
OTHERWISE = {"trainer.devices": "devices", "trainer.accelerator": "accelerator"}  # of commands without a trainer
GPU = "type gpu, for NVIDIA's and AMD's GPUs"
ACCELERATORS = {"cuda": GPU, "rocm": GPU, "gpus": GPU, "mps": "Apple's GPU is not supported; type cpu"}
ROOMS = ("", "trainer", "training", "train", "data", "model", "optimizer", "optim")  # where other programs have them
FLAGS = ("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion",
         "config-path", "config-name", "config-dir", "experimental-rerun", "info")  # fmt: skip
SHORT = ("h", "c", "p", "r", "m", "sc", "cp", "cn", "cd", "i")


def instead_of_key(key: str, known: list[str]) -> str:
    """What to type in place of a key of other programs; empty where the table has none.

    Args:
        known: the command's keys.
    """
    room, _, word = key.rpartition(".")
    words = KEYS.get(word.replace("-", "_"), "") if room in ROOMS else ""
    if words == _CHECKPOINT and "resume" not in known:
        return "type ckpt=RUN_OR_FILE"
    if "trainer.devices" not in known:
        for trained, here in OTHERWISE.items():
            words = words.replace(trained, here)
    return words


def instead_of_value(key: str, value: Any) -> str:
    """'; ' and what to type in place of an accelerator or of devices that Lightning knows; or nothing."""
    word = key.rpartition(".")[-1]
    if word == "accelerator" and value in ACCELERATORS:
        return f"; {ACCELERATORS[value]}"
    if word == "devices" and isinstance(value, Sequence) and not isinstance(value, str):
        numbers = ",".join(map(str, value))
        return f"; type {key}={len(value)}, and before the command CUDA_VISIBLE_DEVICES={numbers}, which says which"
    return "; type how many there are to be" if word == "devices" and value in ("auto", -1) else ""


def instead_of_flag(argument: str) -> str:
    """What to type in place of --KEY=VALUE, --KEY or -KEY; empty for a flag of Hydra's, or the start of one."""
    word = argument.lstrip("-").partition("=")[0]
    if argument[:1] != "-" or word in SHORT or any(flag.startswith(word) for flag in FLAGS):
        return ""
    return f"options are typed without dashes, {argument.lstrip('-') if '=' in argument else f'{word}=VALUE'}"
