"""Options of Lightning's Trainer: which values they take here, and what to type in place of those that have no place.

Lightning is not imported: a mistake is answered at once. A test compares the names with its Trainer.
"""

import re
from typing import Any

from omegaconf import DictConfig

__all__ = ["RANGES", "REFUSED", "check_trainer", "instead_of_option"]

AT_LEAST_1 = (lambda v: _is_whole(v) and v >= 1, "a whole number, at least 1")
AT_LEAST_1_OR_NULL = (AT_LEAST_1[0], "null, or a whole number, at least 1")
AT_LEAST_1_OR_NO_LIMIT = (lambda v: v == -1 or AT_LEAST_1[0](v), "-1, or a whole number, at least 1")
TRUE_OR_FALSE = (lambda v: isinstance(v, bool), "true or false")
BATCHES = (lambda v: _is_share(v) or (_is_whole(v) and v >= 0), "a fraction from 0.0 to 1.0, or a number of batches")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
PROFILERS = ("simple", "advanced", "pytorch")
RANGES = {
    "trainer.devices": AT_LEAST_1,
    "trainer.num_nodes": AT_LEAST_1,
    "trainer.accelerator": (lambda v: v in ("auto", "cpu", "gpu"), "auto, cpu or gpu"),
    "trainer.strategy": (lambda v: v in STRATEGIES or _is_object(v), "one of " + ", ".join(STRATEGIES)),
    "trainer.precision": (lambda v: str(v) in PRECISIONS, "one of " + ", ".join(PRECISIONS)),
    "trainer.max_epochs": AT_LEAST_1_OR_NO_LIMIT,
    "trainer.max_steps": AT_LEAST_1_OR_NO_LIMIT,
    "trainer.max_time": (lambda v: bool(re.fullmatch(r"\d+(:\d\d){3}", str(v))), "null, or DD:HH:MM:SS"),
    "trainer.min_epochs": AT_LEAST_1_OR_NULL,
    "trainer.min_steps": AT_LEAST_1_OR_NULL,
    "trainer.accumulate_grad_batches": AT_LEAST_1,
    "trainer.gradient_clip_val": (lambda v: _is_number(v) and v >= 0, "null, or a number >= 0"),
    "trainer.gradient_clip_algorithm": (lambda v: v in ("norm", "value"), "norm or value"),
    "trainer.limit_train_batches": BATCHES,
    "trainer.limit_val_batches": BATCHES,
    "trainer.overfit_batches": BATCHES,
    "trainer.check_val_every_n_epoch": AT_LEAST_1_OR_NULL,
    "trainer.val_check_interval": (
        lambda v: (_is_share(v) and v > 0) or AT_LEAST_1[0](v),
        "a fraction of an epoch, more than 0.0 and at most 1.0, or a number of training batches",
    ),
    "trainer.num_sanity_val_steps": (lambda v: _is_whole(v) and v >= -1, "a number of batches, or -1 for all"),
    "trainer.fast_dev_run": (lambda v: isinstance(v, bool) or AT_LEAST_1[0](v), "true, false or a number of batches"),
    "trainer.profiler": (lambda v: v in PROFILERS or _is_object(v), "null, " + ", ".join(PROFILERS)),
    "trainer.detect_anomaly": TRUE_OR_FALSE,
    "trainer.log_every_n_steps": (lambda v: _is_whole(v) and v >= 0, "a whole number, at least 1; 0: never"),
    "trainer.benchmark": (TRUE_OR_FALSE[0], "null, true or false"),
    "trainer.deterministic": (lambda v: isinstance(v, bool) or v == "warn", "true, false or warn"),
}  # fmt: skip
_RUN = "type name=NAME for its name, or hydra.run.dir=DIR"
_PER_RUN = "each run has its own, and its own folder; "
REFUSED = {  # arguments of Lightning's Trainer that this project sets itself, or that would do nothing -> what to type
    "barebones": "leave out what takes time instead: callbacks=none logger=none",
    "callbacks": "callbacks are options of their own: callbacks=none or callbacks.NAME=null leaves out all or one, "
    "'+callbacks.NAME={_target_:CLASS}' adds one",
    "default_root_dir": f"{_PER_RUN}{_RUN}",
    "enable_autolog_hparams": "config.yaml in the run folder has all options; logger.tensorboard=null logs less",
    "enable_checkpointing": "a run keeps its last and best checkpoint: callbacks.best=null leaves out the best one; "
    "trainer.fast_dev_run=true keeps nothing",
    "enable_model_summary": "the line `model` has the number of parameters; for a table, type "
    "+callbacks.summary._target_=lightning.pytorch.callbacks.RichModelSummary",
    "enable_progress_bar": "type callbacks.progress=null for no progress",
    "inference_mode": "it is of Lightning's test and predict; python evaluate.py ckpt=RUN measures a run",
    "limit_predict_batches": "python embed.py ckpt=RUN writes features; data.bank and evaluation.bank limit images",
    "limit_test_batches": "the test split is measured whole; evaluation.bank=N compares with fewer training images, "
    "'evaluators=[]' measures nothing",
    "logger": "loggers are options of their own: logger=none or logger.NAME=null leaves out all or one, "
    "'logger=[default,wandb]' adds one",
    "model_registry": "python export.py ckpt=RUN writes the encoder",
    "plugins": "checkpoints, precision and ranks have their plugins here; trainer.precision and trainer.devices choose",
    "reload_dataloaders_every_n_epochs": "batches are drawn anew in every epoch, from data that stays as it was read",
    "sync_batchnorm": "batch norm is synchronized wherever there are several ranks; leave it out",
    "use_distributed_sampler": "the data divides its batches over the ranks itself; leave it out",
}  # fmt: skip


_FINDER = "the batch is a part of the loss, and a contrastive loss is no measure of a learning rate: set "
EARLIER = {  # arguments that Lightning's Trainer had in version 1 -> what to type
    "amp_backend": "type trainer.precision=16-mixed or bf16-mixed",
    "amp_level": "type trainer.precision=16-mixed or bf16-mixed",
    "auto_lr_find": f"{_FINDER}optimizer.lr",
    "auto_scale_batch_size": f"{_FINDER}data.batch_size",
    "auto_select_gpus": "CUDA_VISIBLE_DEVICES before the command says which GPUs",
    "checkpoint_callback": "a run keeps its last and best checkpoint: callbacks.best=null leaves out the best one",
    "distributed_backend": "several devices train by DDP: type trainer.devices=N",
    "flush_logs_every_n_steps": "type trainer.log_every_n_steps=N",
    "move_metrics_to_cpu": "metrics are few numbers; leave it out",
    "multiple_trainloader_mode": "there is one set of training data; leave it out",
    "prepare_data_per_node": "data is read by every rank; leave it out",
    "process_position": "type callbacks.progress=null for no progress",
    "progress_bar_refresh_rate": "type callbacks.progress=null for no progress",
    "replace_sampler_ddp": "the data divides its batches over the ranks itself; leave it out",
    "stochastic_weight_avg": "type target=ema for a momentum network",
    "terminate_on_nan": "a run always ends where its loss is not finite; trainer.detect_anomaly=true says where",
    "track_grad_norm": "train/gradient_norm is logged anyway",
    "truncated_bptt_steps": "there are no sequences of steps; leave it out",
    "weights_save_path": f"{_PER_RUN}{_RUN}",
    "weights_summary": "the line `model` has the number of parameters",
}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


def _is_object(value: Any) -> bool:
    return isinstance(value, DictConfig) and "_target_" in value


def instead_of_option(key: str) -> str:
    """A line on an argument of Lightning's Trainer that cannot be set, with what to type; empty for another key."""
    group, _, argument = key.rpartition(".")
    instead = REFUSED | EARLIER
    return f"{key} cannot be set: {instead[argument]}" if group == "trainer" and argument in instead else ""


def check_trainer(trainer: DictConfig) -> None:
    """Limits and intervals that have to do with one another.

    Raises:
        ValueError: one line that names the key.
    """
    for key in map(str, trainer):
        if instead := instead_of_option(f"trainer.{key}"):
            raise ValueError(instead)
    epochs, steps, time = (trainer.get(key) for key in ("max_epochs", "max_steps", "max_time"))
    fast = trainer.get("fast_dev_run")
    if epochs == -1 and steps in (None, -1) and time is None and not fast:
        raise ValueError("trainer.max_epochs=-1 is without an end: set trainer.max_steps or trainer.max_time")
    interval = trainer.get("val_check_interval", 1.0)
    if trainer.get("check_val_every_n_epoch", 1) is None and not _is_whole(interval):
        raise ValueError(
            "trainer.check_val_every_n_epoch=null counts batches across epochs: add trainer.val_check_interval=BATCHES"
        )
    if trainer.get("limit_val_batches") == 0 and trainer.get("num_sanity_val_steps"):
        raise ValueError("trainer.limit_val_batches=0 leaves no batch for trainer.num_sanity_val_steps; set it to 0")
