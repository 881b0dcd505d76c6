"""Words that people know from other programs, and what to type here."""

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["STOP_EARLY", "instead_of_key", "instead_of_value"]

_DEVICES = "type trainer.devices=N, and trainer.accelerator=gpu or cpu to choose; CUDA_VISIBLE_DEVICES says which GPUs"
_CHECKPOINT = "resume=RUN resumes a run"
_DDP = "several devices train by DDP: type trainer.devices=N"
_MICRO_BATCH = "type data.micro_batch=N for samples that are encoded at a time; data.batch_size=N is the whole batch"
STOP_EARLY = "'+callbacks.stop={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/loss,patience:5}'"
KEYS = {  # the last part of a key -> what to type
    "gpus": _DEVICES,
    "num_gpus": _DEVICES,
    "gpu": _DEVICES,
    "device": _DEVICES,
    "num_processes": _DEVICES,
    "tpu_cores": "this project trains on GPUs and CPUs: trainer.accelerator=gpu or cpu",
    "strategy": _DDP,
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
    "model_name": "type encoder=NAME; a model of transformers is encoder=hf encoder.name=FOLDER",
    "dataset": "type data=NAME",
    "datamodule": "type data=NAME",
    "data_dir": "type data=image_folder data.root=DIR",
    "seed_everything": "type seed=N",
    "micro_batch_size": _MICRO_BATCH,
    "mini_batch_size": _MICRO_BATCH,
    "gc_chunk_size": _MICRO_BATCH,
    "grad_cache": _MICRO_BATCH,
    "debug": "type experiment=debug, trainer.fast_dev_run=true, trainer.overfit_batches=N or trainer.profiler=simple",
    "hparams_search": "type -m sweep=optuna",
    "optimized_metric": "a sweep maximizes val/knn_top1 or val/ndcg_at_20, or minus val/loss where neither is measured",
    "print_config": "--cfg job prints the config",
    "task_name": "type name=NAME",
    "tags": "type name=NAME; logger.wandb has options of its own",
    "test": "train.py trains and then measures; 'evaluators=[]' measures nothing, and evaluate.py measures a run again",
    "train": "train.py trains and then measures; python evaluate.py ckpt=RUN measures alone",
    "early_stopping": f"type {STOP_EARLY}",
    "torch_compile": "type compile=true",
    "torchcompile": "type compile=true",
    "memory_format": "type channels_last=true, for encoders of images",
    "fused": "type optimizer.fused=true; of conf/, optimizer=adam, adamw and sgd have a fused form",
    "optim": "type optimizer=NAME, such as adamw; optimizer.fused=true is its fused form",
    "amp": "type trainer.precision=bf16-mixed or 16-mixed",
    "bf16": "type trainer.precision=bf16-mixed",
    "fp16": "type trainer.precision=16-mixed",
    "output_dir": "type name=NAME, or hydra.run.dir=DIR",
}
OTHERWISE = {"trainer.devices": "devices", "trainer.accelerator": "accelerator"}  # of commands without a trainer
GPU = "type gpu, for NVIDIA's and AMD's GPUs"
ACCELERATORS = {"cuda": GPU, "rocm": GPU, "gpus": GPU, "mps": "Apple's GPU is not supported; type cpu"}
LIGHTNINGS = {  # the last part of a key -> what to type in place of a value that Lightning's Trainer takes
    "max_time": "two hours are 00:02:00:00",
    "strategy": _DDP,
}
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true", "mixed": "16-mixed"}
ROOMS = (
    "",
    "trainer",
    "training",
    "train",
    "data",
    "paths",
    "model",
    "optimizer",
    "optim",
    "extras",
)  # where other programs have them


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
    if word == "accelerator" and isinstance(value, str) and value in ACCELERATORS:
        return f"; {ACCELERATORS[value]}"
    if word in ("strategy", "max_time"):
        return f"; {LIGHTNINGS[word]}"
    if word == "precision":
        return f"; type {key}={PRECISIONS[str(value)]}" if str(value) in PRECISIONS else ""
    if word != "devices":
        return ""
    if isinstance(value, str) and re.fullmatch(r"\d+(,\d+)+,?|\d+,", value):  # as Lightning has it, "0,1"
        value = value.rstrip(",").split(",")
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = ",".join(map(str, value))
        return f"; type {key}={len(value)}, and before the command CUDA_VISIBLE_DEVICES={numbers}, which says which"
    return "; type how many there are to be" if value in ("auto", -1, "-1") else ""
