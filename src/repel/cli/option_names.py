"""Options by the names that other programs have for them; habits.py has those about devices and the Trainer."""

import re
from collections.abc import Iterable
from typing import Any

from repel.cli.baseline import choices_with, command_groups, group_options, is_group
from repel.cli.habits import ROOMS, STOP_EARLY, instead_of_key
from repel.cli.methods import instead_of_method, plain

__all__ = ["instead_of_name"]

TABLE = {  # what to type -> the last parts of keys
    "type experiment=NAME; --methods lists methods": "method algorithm algo approach framework recipe preset",
    "type loss=NAME; --methods lists methods":
        "loss_fn criterion objective loss_name loss_type loss_function loss.name loss.type",
    "type encoder=NAME": "backbone arch architecture network net base_model encoder_name encoder.type model.name",
    "encoder=resnet18 has encoder.weights=DEFAULT, encoder=timm encoder.pretrained=true": "pretrained use_pretrained",
    "type negatives=NAME": "hard_negatives negative_mode negative_sampling miner mining hard_mining",
    "type optimizer=NAME": "optim opt optimizer_name optimizer.name optimizer.type",
    "type schedule=NAME": "scheduler lr_scheduler lr_schedule schedule.name schedule.type",
    "type schedule.warmup_epochs=N": "warmup warmup_steps num_warmup_steps",
    "type optimizer.lr=X": "base_lr init_lr max_lr",
    "type optimizer.weight_decay=X": "wd l2",
    "type optimizer=sgd optimizer.momentum=X, or target=ema target.momentum=X": "momentum",
    "type target=ema target.momentum=X":
        "ema ema_decay use_ema momentum_encoder ema_momentum moving_average_decay target.tau target.decay target.m",
    "type loss.temperature=X": "tau temp",
    "type loss=supcon for a loss that uses labels": "use_labels supervised",
    "type head.out_features=N":
        "projection_dim proj_dim feature_dim feat_dim embedding_dim embed_dim out_dim output_dim z_dim emb_dim",
    "type views=NAME": "transform transforms augmentation augmentations aug augment train_transform",
    "type views.n=N": "n_views num_views views_per_image",
    "type data=NAME": "dataset_name data.name dataset.name data.type",
    "type data.root=DIR":
        "data_path dataset_path root_dir data_folder train_dir image_dir dataset.root data.dir data.path",
    "type data.batch_size=N, of all devices together": "bs batchsize per_device_train_batch_size",
    "type data.image_size=N": "img_size input_size resolution crop_size im_size imsize size",
    "the data has it": "num_classes n_classes classes in_channels",
    "images lie in memory or are decoded by data.workers; there is nothing to set":
        "pin_memory persistent_workers prefetch_factor drop_last shuffle",
    "data=cifar10 and others are downloaded on first use; there is nothing to set": "download",
    "type name=NAME": "tags run_name exp_name task_name experiment_name notes",
    "type name=NAME, or hydra.run.dir=DIR": "save_dir log_dir logdir workdir work_dir results_dir",
    "type seed=N": "random_seed pl_seed seed_everything manual_seed",
    "type experiment=debug for a run of seconds, or trainer=debug": "debug debugging",
    "type -m sweep=optuna for a search, -m sweep=grid for a grid": "hparams_search hparam_search",
    "train.py trains and then measures; 'evaluators=[]' measures nothing": "train test",
    "type 'evaluators=[knn,linear]'": "eval evaluator evaluation metrics metric",
    "callbacks.last and callbacks.best keep the last checkpoint and the best by val/knn_top1":
        "monitor model_checkpoint save_top_k save_best checkpoint_callback",
    f"type {STOP_EARLY}": "early_stopping early_stop patience",
    "type callbacks.progress=null for none": "rich_progress_bar progress_bar tqdm",
    "type --cfg job, which prints the config": "print_config",
    "type 'logger=[default,wandb]'": "wandb use_wandb wandb_project entity",
    "type 'logger=[default,mlflow]'": "mlflow use_mlflow",
    "logger=default has TensorBoard": "use_tensorboard",
}  # fmt: skip
NAMES = {name: typed for typed, names in TABLE.items() for name in names.split()}
PLACES = ("dataset", "datamodule", "paths", "extras", "config", "cfg", "args", "hparams", "net", "model.net")
PARTS = ("loss", "encoder", "head", "projector", "callbacks", "logger")
OF_METHODS = ("model", "method", "algorithm", "algo", "approach", "framework", "recipe", "preset", "criterion",
              "objective", "loss_fn", "loss_name", "loss_type", "loss_function")  # fmt: skip


def instead_of_name(key: str, name: str, known: list[str], value: Any) -> str:
    """'; ' and what to type in place of a key that a command has not; empty where no table says.

    Args:
        name: of the command.
        known: its keys.
        value: as typed.
    """
    group, _, option = key.partition(".")
    if is_group(group) and not _has_group(group, name, known):
        return "; it is the run's own"
    if (
        (option or group) in OF_METHODS
        and _has_group("loss", name, known)
        and (method := instead_of_method(str(value)))
    ):
        return method
    words = _table_of_habits(key, known) or _own(key)
    if not (found := re.match(r"type ((\w+)[\w.]*)=", words)):
        return f"; {words}" if words else ""
    typed, group = found.groups()
    if not _has_group(group, name, known):
        return ""
    if typed == group:
        return f"; {_with_value(words, group, value)}"
    choices = [] if typed in known else choices_with(typed)
    return f"; {words}" + (f", an option of {_either(group, choices)}" if choices else "")


def _table_of_habits(key: str, known: list[str]) -> str:
    room, _, word = key.rpartition(".")
    return instead_of_key(word if room in PLACES else key, known)


def _own(key: str) -> str:
    key = key.replace("-", "_").casefold()
    room, _, word = key.rpartition(".")
    if room.startswith("callbacks."):  # callbacks.early_stopping.patience
        room, word = key.split(".")[:2]
    return NAMES.get(key) or (NAMES.get(word, "") if room in (*ROOMS, *PLACES, *PARTS) else "")


def _has_group(group: str, name: str, known: list[str]) -> bool:
    """Whether a command has the group, or the option: evaluate.py has no loss."""
    several = group in command_groups(name) or any(key.startswith(f"{group}.") for key in known)
    return several or (group in known and not is_group(group))


def _either(group: str, choices: Iterable[str]) -> str:
    *first, last = choices
    return f"{group}={', '.join(first)}{' or ' * bool(first)}{last}"


def _with_value(words: str, group: str, value: Any) -> str:
    """The words with the choice that was typed, where the group has it: dataset=cifar10, data=cifar10."""
    same = [choice for choice in group_options(group) if plain(choice) == plain(str(value))]
    return f"type {group}={same[0]}" if same else words
